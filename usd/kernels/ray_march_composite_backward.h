// Included in the body of composite_ray_backward: back to front along one ray, without dividing by 1 - alpha.
//
// With g_k the gradient that reaches w_k by any way, and B_k = sum_{j > k} g_j alpha_j prod_{k < i < j} (1 - alpha_i),
// the gradient of alpha_k is T_k (g_k - B_k), and B_{k-1} = alpha_k g_k + (1 - alpha_k) B_k.
// With COLORS defined there are three channels, else as many as the features have.
#if !defined(__CUDA_ARCH__)
    // Multiply and add in one instruction, as CUDA does anyway.
    #pragma clang fp contract(fast)
#endif
#if defined(COLORS)
    constexpr int C = 3;
#else
    const int C = features.shape[1];
#endif
#include "ray_march_vectors.h"
    const wp::int64 start = packed.data[2 * size_t(r)], count = packed.data[2 * size_t(r) + 1];
    const float* g_c = g_color.data + size_t(r) * C;
    const float* before = reach.data + start / BLOCK + r;
    const float g_one = g_opacity.data[r], g_t = g_depth.data[r] * 0.5f;
    float behind = 0.0f;
#if defined(COLORS) && !defined(__CUDA_ARCH__)
    // The color's gradient repeated as the channels of 8 samples lie in memory.
    V pattern[3];
    for (int i = 0; i < 24; ++i)
        pattern[i / 8][i % 8] = g_c[i % 3];
#endif
    for (wp::int64 block = (count + BLOCK - 1) / BLOCK - 1; block >= 0; --block) {
        const wp::int64 done = block * BLOCK, s = start + done;
        float light = before[block];
#include "ray_march_block.h"
        float* g_f = g_features.data + s * C;
        // What reaches a weight through opacity and depth, and directly where a loss reads weights.
        V g = g_one + g_t * twice;
        if (g_weights.shape[0] > 0)
            g += load(g_weights.data + s, n);
        // ... and through the color: the dot product of its gradient and the sample's features.
#if defined(COLORS) && !defined(__CUDA_ARCH__)
        const V spread[3] = {
            SHUFFLE(weight, weight, 0, 0, 0, 1, 1, 1, 2, 2),
            SHUFFLE(weight, weight, 2, 3, 3, 3, 4, 4, 4, 5),
            SHUFFLE(weight, weight, 5, 5, 6, 6, 6, 7, 7, 7),
        };
        V h[3];
        for (int i = 0; i < 3; ++i) {
            h[i] = pattern[i] * load(f + 8 * i, 3 * n - 8 * i);
            store(g_f + 8 * i, pattern[i] * spread[i], 3 * n - 8 * i);
        }
        // Every third number of the three vectors side by side is one channel of the 8 samples.
        const V red = SHUFFLE(h[0], h[1], 0, 3, 6, 9, 12, 15, 0, 0);
        const V green = SHUFFLE(h[0], h[1], 1, 4, 7, 10, 13, 0, 0, 0);
        const V blue = SHUFFLE(h[0], h[1], 2, 5, 8, 11, 14, 0, 0, 0);
        g += SHUFFLE(red, h[2], 0, 1, 2, 3, 4, 5, 10, 13) + SHUFFLE(green, h[2], 0, 1, 2, 3, 4, 8, 11, 14)
            + SHUFFLE(blue, h[2], 0, 1, 2, 3, 4, 9, 12, 15);
#else
        float w[BLOCK], dot[BLOCK] = {};
        store(w, weight, BLOCK);
        for (int j = 0; j < n; ++j)
            for (int c = 0; c < C; ++c) {
                dot[j] += g_c[c] * f[j * C + c];
                g_f[j * C + c] = w[j] * g_c[c];
            }
        g += load(dot, BLOCK);
#endif
        g = keep_if_reached(g, left);
        const V later = look_back(opaque * g, 1.0f - opaque, behind);
        g = left * (g - later);
        // The opacity of a density sigma over a length l has the derivative l (1 - alpha).
        store(g_matter.data + s, is_density ? g * (1.0f - opaque) * length : g, n);
    }
