// Ray marching and compositing: each function serves one ray, on a CPU and on CUDA alike. Read ray_march.py first.
//
// Warp compiles the bodies (native.py); ray_march_warp.py declares the same arguments in Warp's types.

#include "warp/native/builtin.h"

// Which lattice points of ray r lie in occupied cells: their number, and one bit for each, 64 to a word.
inline void find_samples_of_ray(
    int r, wp::array_t<wp::vec3f> origins, wp::array_t<wp::vec3f> directions, wp::array_t<int> cells, int side,
    float radius, float step, wp::array_t<float> nearest, wp::array_t<float> leave, wp::array_t<wp::int64> bits,
    wp::array_t<wp::int64> count)
{
    // Rounds of a loop over LANES do not depend on each other: a CPU's vector unit takes several at once.
#if defined(__CUDA_ARCH__)
    constexpr int LANES = 1;
#else
    constexpr int LANES = 16;
#endif
    const wp::vec3f o = origins.data[r], d = directions.data[r];
    const int last = side - 1;
    const float scale = 0.5f * (float)side / radius;
    const float nearest_t = nearest.data[r], leave_t = leave.data[r];
    wp::int64* words = bits.data + size_t(r) * bits.shape[1];
    wp::int64 n = 0;
    for (int w = 0; w < bits.shape[1]; ++w) {
        unsigned long long word = 0;
        for (int bit = 0; bit < 64; bit += LANES) {
            // Every later point lies behind the cube, so the rest of the word stays empty.
            if (!(nearest_t + (float)(64 * w + bit) * step < leave_t))
                break;
            // First the arithmetic of all lanes, without a branch: only so does it become vector code.
            int cell[LANES];
            unsigned inside[LANES];
            for (int lane = 0; lane < LANES; ++lane) {
                // A multiple of the step, not a running sum: rounding must not grow along the ray.
                const float t = nearest_t + (float)(64 * w + bit + lane) * step;
                inside[lane] = t < leave_t ? 1u : 0u;
                const int i = (int)((o[0] + t * d[0] + radius) * scale);
                const int j = (int)((o[1] + t * d[1] + radius) * scale);
                const int k = (int)((o[2] + t * d[2] + radius) * scale);
                // Rounding may put a point of the surface just outside: it belongs to the nearest cell.
                const int x = i < 0 ? 0 : (i < last ? i : last);
                const int y = j < 0 ? 0 : (j < last ? j : last);
                const int z = k < 0 ? 0 : (k < last ? k : last);
                cell[lane] = (x * side + y) * side + z;
            }
            // Then the look-ups: four cells share a word, because vector units gather words and not bytes.
            unsigned found = 0;
            for (int lane = 0; lane < LANES; ++lane) {
                const unsigned four = (unsigned)cells.data[cell[lane] >> 2];
                const unsigned hit = four >> 8 * (cell[lane] & 3) & inside[lane];
                found |= hit << lane;
                n += hit;
            }
            word |= (unsigned long long)found << bit;
        }
        words[w] = wp::int64(word);
    }
    count.data[r] = n;
}

// The samples of the points found, into the places that packed keeps for ray r.
inline void write_samples_of_ray(
    int r, wp::array_t<wp::int64> bits, float step, wp::array_t<float> nearest, wp::array_t<wp::int64> packed,
    wp::array_t<wp::int64> ray_index, wp::array_t<float> t_start, wp::array_t<float> t_end)
{
    // The number of zeros below the lowest one.
#if defined(__CUDA_ARCH__)
    const auto zeros_below = [](unsigned long long word) { return __ffsll(word) - 1; };
#else
    const auto zeros_below = [](unsigned long long word) { return __builtin_ctzll(word); };
#endif
    const wp::int64* words = bits.data + size_t(r) * bits.shape[1];
    const float nearest_t = nearest.data[r], half = step / 2.0f;
    wp::int64* index = ray_index.data + packed.data[2 * size_t(r)];
    float* starts = t_start.data + packed.data[2 * size_t(r)];
    float* ends = t_end.data + packed.data[2 * size_t(r)];
    for (int w = 0; w < bits.shape[1]; ++w) {
        unsigned long long word = (unsigned long long)words[w];
        while (word) {
            // Cells are longer than steps, so ones come in runs, and a run is written by loops without a branch.
            const int bit = zeros_below(word);
            const unsigned long long gap = ~(word >> bit);
            const int length = gap ? zeros_below(gap) : 64;
            const int k = 64 * w + bit;
            // One array after the other: each loop then fills memory in sequence.
            for (int j = 0; j < length; ++j)
                index[j] = r;
            for (int j = 0; j < length; ++j)
                starts[j] = nearest_t + (float)(k + j) * step - half;
            for (int j = 0; j < length; ++j)
                ends[j] = nearest_t + (float)(k + j) * step + half;
            index += length;
            starts += length;
            ends += length;
            // A shift by all 64 places is undefined, hence the question.
            word = bit + length < 64 ? word >> (bit + length) << (bit + length) : 0;
        }
    }
}

// Weights of the samples of ray r and their sums. reach keeps the light left before each block for the backward pass:
// block b of ray r has the place start / BLOCK + r + b.
inline void composite_ray(
    int r, wp::array_t<wp::int64> packed, wp::array_t<float> t_start, wp::array_t<float> t_end,
    wp::array_t<float> matter, wp::array_t<float> features, bool is_density, float least, wp::array_t<float> weights,
    wp::array_t<float> reach, wp::array_t<float> opacity, wp::array_t<float> depth, wp::array_t<float> color)
{
    // Three channels, as of colors, are worth code of their own: their number is then known to the compiler.
    if (features.shape[1] == 3) {
#define COLORS
#include "ray_march_composite.h"
#undef COLORS
    } else {
#include "ray_march_composite.h"
    }
}

// Gradients of matter and features of ray r from those of the sums.
inline void composite_ray_backward(
    int r, wp::array_t<wp::int64> packed, wp::array_t<float> t_start, wp::array_t<float> t_end,
    wp::array_t<float> matter, wp::array_t<float> features, bool is_density, float least, wp::array_t<float> reach,
    wp::array_t<float> g_weights, wp::array_t<float> g_opacity, wp::array_t<float> g_depth, wp::array_t<float> g_color,
    wp::array_t<float> g_matter, wp::array_t<float> g_features)
{
    if (features.shape[1] == 3) {
#define COLORS
#include "ray_march_composite_backward.h"
#undef COLORS
    } else {
#include "ray_march_composite_backward.h"
    }
}
