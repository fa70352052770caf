// Included in the body of composite_ray: front to back along one ray, a block of samples at once.
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
    float* sums = color.data + size_t(r) * C;
    float* before = reach.data + start / BLOCK + r;
    float light = 1.0f;
    V sum_w = {}, sum_wt = {}, sum_f[3] = {};
    for (wp::int64 done = 0; done < count; done += BLOCK) {
        const wp::int64 s = start + done;
        // The backward pass goes from far to near and begins each block with the light known here.
        *before++ = light;
#include "ray_march_block.h"
        store(weights.data + s, weight, n);
        sum_w += weight;
        sum_wt += weight * twice;
#if defined(COLORS) && !defined(__CUDA_ARCH__)
        // 8 samples of three channels fill three vectors; each weight is repeated beside its sample's channels.
        const V spread[3] = {
            SHUFFLE(weight, weight, 0, 0, 0, 1, 1, 1, 2, 2),
            SHUFFLE(weight, weight, 2, 3, 3, 3, 4, 4, 4, 5),
            SHUFFLE(weight, weight, 5, 5, 6, 6, 6, 7, 7, 7),
        };
        for (int i = 0; i < 3; ++i)
            sum_f[i] += spread[i] * load(f + 8 * i, 3 * n - 8 * i);
#else
        float w[BLOCK];
        store(w, weight, BLOCK);
        for (int j = 0; j < n; ++j)
            for (int c = 0; c < C; ++c)
                sums[c] += w[j] * f[j * C + c];
#endif
    }
    opacity.data[r] = total(sum_w);
    // twice is start + end: the middle is half of it, and one multiplication a ray is enough.
    depth.data[r] = 0.5f * total(sum_wt);
#if defined(COLORS) && !defined(__CUDA_ARCH__)
    // Number i of the three vectors belongs to channel i modulo 3.
    for (int i = 0; i < 24; ++i)
        sums[i % 3] += sum_f[i / 8][i % 8];
#endif
