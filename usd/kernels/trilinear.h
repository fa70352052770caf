// Volumes between their voxels, on a CPU. Read trilinear.py first.
//
// Warp compiles the bodies (native.py); trilinear_warp.py declares the same arguments in Warp's types and defines
//   CHANNELS               numbers of a voxel
//   ROW                    numbers of a voxel's row: its channels, and zeros up to a multiple of 8
//   GATHER, SCATTER, PULL  what is done with a place's eight voxels: one of them is 1, the others 0

#include "warp/native/builtin.h"

// Places first to last of one volume, in blocks: first the arithmetic, place beside place, then voxel after voxel.
inline void walk_places(
    wp::array_t<float> rows, wp::array_t<wp::vec3f> places, wp::array_t<float> values, wp::array_t<wp::vec3f> slopes,
    int volume, int first, int last, int depth, int height, int width)
{
    // Multiply and add in one instruction.
    #pragma clang fp contract(fast)
    constexpr int BLOCK = 16, VECTORS = ROW / 8;
    // Eight channels; rows lie in memory as single numbers do.
    typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
    const int side[3] = {width, height, depth}, step[3] = {1, width, width * height};
    const size_t n_places = places.shape[1], before = volume * n_places;
    float* voxels = rows.data + size_t(volume) * depth * height * width * ROW;
    float* value = values.data + before * CHANNELS;
    for (int start = first; start < last; start += BLOCK) {
        const int n = last - start < BLOCK ? last - start : BLOCK;
        // Where a place lies among the voxels, and factors of the weights of the lower and upper voxel of each axis.
        float factor[3][2][BLOCK] = {};
        int offset[3][2][BLOCK] = {};
        for (int d = 0; d < 3; ++d)
            for (int s = 0; s < n; ++s) {
                const float scaled = ((places.data[before + start + s][d] + 1.0f) * side[d] - 1.0f) * 0.5f;
                // Far away, or no number: both voxels lie outside.
                const float most = side[d] + 1.0f, near = scaled > -2.0f ? (scaled < most ? scaled : most) : -2.0f;
                const int low = (int)(near + 2.0f) - 2;
                factor[d][1][s] = near - low;
                factor[d][0][s] = 1.0f - factor[d][1][s];
                for (int a = 0; a < 2; ++a)
                    offset[d][a][s] = unsigned(low + a) < unsigned(side[d]) ? (low + a) * step[d] : -1;
            }
        float tile[BLOCK][ROW] = {};
#if SCATTER || PULL
        for (int c = 0; c < CHANNELS; ++c)
            for (int s = 0; s < n; ++s)
                tile[s][c] = value[c * n_places + start + s];
#endif
        for (int s = 0; s < n; ++s) {
            V* here = (V*)tile[s];
            V part[VECTORS] = {};
            for (int q = 0; q < VECTORS; ++q)
                part[q] = here[q];
#if PULL
            float slope[3] = {};
#endif
            #pragma unroll
            for (int k = 0; k < 8; ++k) {
                const int a = k & 1, b = k >> 1 & 1, c = k >> 2;
                const int x = offset[0][a][s], y = offset[1][b][s], z = offset[2][c][s];
                if ((x | y | z) < 0)  // outside there is nothing
                    continue;
                V* row = (V*)(voxels + size_t(x + y + z) * ROW);
                const float X = factor[0][a][s], Y = factor[1][b][s], Z = factor[2][c][s];
#if GATHER
                for (int q = 0; q < VECTORS; ++q)
                    part[q] += X * Y * Z * row[q];
#elif SCATTER
                for (int q = 0; q < VECTORS; ++q)
                    row[q] += X * Y * Z * part[q];
#else
                V products = {};
                for (int q = 0; q < VECTORS; ++q)
                    products += row[q] * part[q];
                float product = 0.0f;
                for (int q = 0; q < 8; ++q)
                    product += products[q];
                slope[0] += (a ? product : -product) * Y * Z;
                slope[1] += (b ? product : -product) * X * Z;
                slope[2] += (c ? product : -product) * X * Y;
#endif
            }
#if GATHER
            for (int q = 0; q < VECTORS; ++q)
                here[q] = part[q];
#endif
#if PULL
            for (int d = 0; d < 3; ++d)
                slopes.data[before + start + s][d] = 0.5f * side[d] * slope[d];
#endif
        }
#if GATHER
        for (int c = 0; c < CHANNELS; ++c)
            for (int s = 0; s < n; ++s)
                value[c * n_places + start + s] = tile[s][c];
#endif
    }
}

// Voxels first to last of one volume: from channel after channel into rows where INTO_ROWS is 1, else the way back.
inline void copy_voxels(wp::array_t<float> values, wp::array_t<float> rows, int volume, int first, int last)
{
    constexpr int BLOCK = 16;
    const size_t n_voxels = values.shape[2];
    float* value = values.data + volume * n_voxels * CHANNELS;
    float* row = rows.data + volume * n_voxels * ROW;
    for (int start = first; start < last; start += BLOCK) {
        const int n = last - start < BLOCK ? last - start : BLOCK;
        float tile[BLOCK][ROW] = {};
#if INTO_ROWS
        for (int c = 0; c < CHANNELS; ++c)
            for (int s = 0; s < n; ++s)
                tile[s][c] = value[c * n_voxels + start + s];
        for (int s = 0; s < n; ++s)
            for (int q = 0; q < ROW; ++q)
                row[size_t(start + s) * ROW + q] = tile[s][q];
#else
        for (int s = 0; s < n; ++s)
            for (int q = 0; q < ROW; ++q)
                tile[s][q] = row[size_t(start + s) * ROW + q];
        for (int c = 0; c < CHANNELS; ++c)
            for (int s = 0; s < n; ++s)
                value[c * n_voxels + start + s] = tile[s][c];
#endif
    }
}
