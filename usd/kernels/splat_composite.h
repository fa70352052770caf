// What the pixels of a tile show of its splats, front to back, and the gradients. Read splat.py first.
//
// Warp compiles the bodies (native.py); splat_warp.py declares the same arguments in Warp's types and defines
//   FEATURES   numbers of a splat that are blended, known to the compiler
// On a CPU a thread has one tile, and takes the pixels of a row 8 at once; on CUDA it has one pixel, and 256 threads
// side by side have a tile.

#include "warp/native/builtin.h"

// Sums of the features of all splats, weighed by what each adds to the pixel, and what they cover together.
inline void composite_tile(
    int thread, int width, int height, wp::array_t<int> starts, wp::array_t<int> tiles, wp::array_t<int> boxes,
    wp::array_t<float> ellipses, wp::array_t<float> features, wp::array_t<float> sums, wp::array_t<float> opacity)
{
#include "splat_pixels.h"
    V light[GROUPS], left[GROUPS], sum[GROUPS][C];
    for (int group = 0; group < GROUPS; ++group) {
        left[group] = zero;
        for (int q = 0; q < C; ++q)
            sum[group][q] = zero;
        for (int lane = 0; lane < LANES; ++lane)
            LANE(light[group], lane) = inside(group, lane) ? 1.0f : 0.0f;
    }
    for (int k = starts.data[tile]; k < starts.data[tile + 1]; ++k) {
        if (all_dark(k, light))
            break;
        const size_t splat = tiles.data[k];
        const float* e = ellipses.data + 6 * splat;
        const float* value = features.data + C * splat;
        const int* box = boxes.data + 4 * splat;
        const float reach = reach_of(e);
        for (int row = first_row(box); row < last_row(box); ++row) {
            int begin, end;
            for (groups_of(row, e, box, reach, begin, end); begin < end; ++begin) {
#include "splat_weight.h"
                for (int q = 0; q < C; ++q)
                    sum[begin][q] += weight * value[q];
                left[begin] = choose(dark, before, left[begin]);
                light[begin] = choose(dark, zero, before - weight);
            }
        }
    }
    for (int group = 0; group < GROUPS; ++group)
        for (int lane = 0; lane < LANES; ++lane) {
            const size_t pixel = pixel_of(group, lane);
            if (!inside(group, lane))
                continue;
            opacity.data[pixel] = 1.0f - LANE(light[group], lane) - LANE(left[group], lane);
            for (int q = 0; q < C; ++q)
                sums.data[pixel * C + q] = LANE(sum[group][q], lane);
        }
}

// Gradients of the splats in a tile, from those of its pixels: one row (u, v, A, B, C, opacity, features) for each
// splat and tile, so that no two threads add to the same place. Front to back again: what lies behind a splat is the
// pixel's sum without what lies before it.
inline void composite_tile_backward(
    int thread, int width, int height, wp::array_t<int> starts, wp::array_t<int> tiles, wp::array_t<int> boxes,
    wp::array_t<int> slots, wp::array_t<float> ellipses, wp::array_t<float> features, wp::array_t<float> sums,
    wp::array_t<float> opacity, wp::array_t<float> g_sums, wp::array_t<float> g_opacity, wp::array_t<float> rows)
{
#include "splat_pixels.h"
    // What all splats from here on add to the loss, were the gradient constant; and the gradients themselves.
    V light[GROUPS], behind[GROUPS], g_sum[GROUPS][C];
    for (int group = 0; group < GROUPS; ++group) {
        light[group] = behind[group] = zero;
        for (int q = 0; q < C; ++q)
            g_sum[group][q] = zero;
        for (int lane = 0; lane < LANES; ++lane) {
            const size_t pixel = pixel_of(group, lane);
            if (!inside(group, lane))
                continue;
            LANE(light[group], lane) = 1.0f;
            float total = g_opacity.data[pixel] * (opacity.data[pixel] - 1.0f);
            for (int q = 0; q < C; ++q) {
                LANE(g_sum[group][q], lane) = g_sums.data[pixel * C + q];
                total += g_sums.data[pixel * C + q] * sums.data[pixel * C + q];
            }
            LANE(behind[group], lane) = total;
        }
    }
    for (int k = starts.data[tile]; k < starts.data[tile + 1]; ++k) {
        if (all_dark(k, light))
            break;
        const size_t splat = tiles.data[k];
        const float* e = ellipses.data + 6 * splat;
        const float* value = features.data + C * splat;
        const int* box = boxes.data + 4 * splat;
        const float reach = reach_of(e);
        // Moments of the exponent's gradient over the pixels: all six of the ellipse's follow from them.
        V of_1 = zero, of_x = zero, of_y = zero, of_xx = zero, of_xy = zero, of_yy = zero, g_value[C];
        for (int q = 0; q < C; ++q)
            g_value[q] = zero;
        for (int row = first_row(box); row < last_row(box); ++row) {
            int begin, end;
            for (groups_of(row, e, box, reach, begin, end); begin < end; ++begin) {
#include "splat_weight.h"
                V along = zero;
                for (int q = 0; q < C; ++q) {
                    along += g_sum[begin][q] * value[q];
                    g_value[q] += g_sum[begin][q] * weight;
                }
                behind[begin] -= weight * along;
                // d weight / d alpha is the light; all that is behind loses its share of it.
                V g = choose(drawn, before * along - behind[begin] / (1.0f - alpha), zero) * alpha;
                g = choose((I)(solid), zero, g);
                of_1 += g;
                of_x += g * dx;
                of_y += g * dy;
                of_xx += g * dx * dx;
                of_xy += g * dx * dy;
                of_yy += g * dy * dy;
                light[begin] = choose(dark, zero, before - weight);
            }
        }
        const float m1 = total(of_1), mx = total(of_x), my = total(of_y);
        // The splat's row for this tile: its tiles are numbered row by row.
        const int wide = (box[1] - 1) / SIDE - box[0] / SIDE + 1;
        const size_t slot = slots.data[splat] + (tile_y - box[2] / SIDE) * wide + tile_x - box[0] / SIDE;
        float* out = rows.data + slot * (6 + C);
        add(out, e[2] * mx + e[3] * my);
        add(out + 1, e[3] * mx + e[4] * my);
        add(out + 2, -0.5f * total(of_xx));
        add(out + 3, -total(of_xy));
        add(out + 4, -0.5f * total(of_yy));
        add(out + 5, m1 / e[5]);
        for (int q = 0; q < C; ++q)
            add(out + 6 + q, total(g_value[q]));
    }
}

// The gradients of one splat: the sum of its rows.
inline void gather_splat(
    int splat, wp::array_t<int> slots, wp::array_t<float> rows, wp::array_t<float> g_ellipses,
    wp::array_t<float> g_features)
{
    constexpr int C = FEATURES;
    float sum[6 + C] = {};
    for (size_t slot = slots.data[splat]; slot < size_t(slots.data[splat + 1]); ++slot)
        for (int q = 0; q < 6 + C; ++q)
            sum[q] += rows.data[slot * (6 + C) + q];
    for (int q = 0; q < 6; ++q)
        g_ellipses.data[size_t(splat) * 6 + q] = sum[q];
    for (int q = 0; q < C; ++q)
        g_features.data[size_t(splat) * C + q] = sum[6 + q];
}
