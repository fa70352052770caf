// From Gaussians in space to ellipses in pictures, and the gradients' way back. Read splat.py first.
//
// Warp compiles the bodies (native.py); splat_warp.py declares the same arguments in Warp's types. A thread has one
// splat and all cameras: what several cameras say of it adds up in one place.

#include "warp/native/builtin.h"

// Ellipse (u, v, A, B, C, opacity), depth and pixel box (x0, x1, y0, y1; empty where nothing is seen) of splat n in
// every picture.
inline void project_splat(
    int n, wp::array_t<float> means, wp::array_t<float> scales, wp::array_t<float> rotations,
    wp::array_t<float> opacities, wp::array_t<float> w2c, wp::array_t<float> intrinsics, int width, int height,
    bool perspective, bool antialias, float near, wp::array_t<float> ellipses, wp::array_t<float> depths,
    wp::array_t<int> boxes)
{
#include "splat_shape.h"
    const int n_splats = opacities.shape[0], n_cameras = intrinsics.shape[0];
    for (int camera = 0; camera < n_cameras; ++camera) {
        const size_t at = size_t(camera) * n_splats + n;
        float* ellipse = ellipses.data + 6 * at;
        int* box = boxes.data + 4 * at;
        for (int i = 0; i < 6; ++i)
            ellipse[i] = 0.0f;
        for (int i = 0; i < 4; ++i)
            box[i] = 0;
#include "splat_ellipse.h"
        depths.data[at] = z;
        if (!(z > near))
            continue;
        const float opaque = opacities.data[n] * fade;
        const float values[6] = {u, v, c / det, -b / det, a / det, opaque};
        for (int i = 0; i < 6; ++i)
            ellipse[i] = values[i];
        // Beyond this squared distance, in standard deviations, the splat is fainter than what is drawn at all.
        const float reach = opaque > LEAST_ALPHA ? 2.0f * logf(opaque / LEAST_ALPHA) : 0.0f;
        const float wide = sqrtf(reach * a) + 0.01f, high = sqrtf(reach * c) + 0.01f;
        const auto pixel = [](float x, int size) {
            return (int)(x < 0.0f ? 0.0f : (x > (float)size ? (float)size : x));
        };
        // A pixel is covered where its center is, half a pixel from its corner.
        const int x0 = pixel(ceilf(u - wide - 0.5f), width), x1 = pixel(floorf(u + wide + 0.5f), width);
        const int y0 = pixel(ceilf(v - high - 0.5f), height), y1 = pixel(floorf(v + high + 0.5f), height);
        if (reach > 0.0f && x0 < x1 && y0 < y1) {
            box[0] = x0;
            box[1] = x1;
            box[2] = y0;
            box[3] = y1;
        }
    }
}

// Gradients of splat n from those of its ellipses and depths; g_w2c, one row a splat and camera, may be empty.
inline void project_splat_backward(
    int n, wp::array_t<float> means, wp::array_t<float> scales, wp::array_t<float> rotations,
    wp::array_t<float> opacities, wp::array_t<float> w2c, wp::array_t<float> intrinsics, int width, int height,
    bool perspective, bool antialias, float near, wp::array_t<float> g_ellipses, wp::array_t<float> g_depths,
    wp::array_t<float> g_means, wp::array_t<float> g_scales, wp::array_t<float> g_rotations,
    wp::array_t<float> g_opacities, wp::array_t<float> g_w2c)
{
#include "splat_shape.h"
    const int n_splats = opacities.shape[0], n_cameras = intrinsics.shape[0];
    float g_mean[3] = {}, g_M[3][3] = {}, g_o = 0.0f;
    for (int camera = 0; camera < n_cameras; ++camera) {
        const size_t at = size_t(camera) * n_splats + n;
        const float* g = g_ellipses.data + 6 * at;
        float g_V[12] = {};
#include "splat_ellipse.h"
        if (z > near) {
            // The conic is the inverse K of the covariance: a change of that changes K by -K (change) K.
            const float A = c / det, B = -b / det, C = a / det;
            const float h0 = A * g[2] + 0.5f * B * g[3], h1 = 0.5f * A * g[3] + B * g[4];
            const float h2 = B * g[2] + 0.5f * C * g[3], h3 = 0.5f * B * g[3] + C * g[4];
            float g_a = -(h0 * A + h1 * B), g_b = -2.0f * (h0 * B + h1 * C), g_c = -(h2 * B + h3 * C);
            g_o += g[5] * fade;
            if (antialias && share > LEAST_SHARE) {
                // fade = sqrt(det0 / det), of the determinants before and after the picture's own blur.
                const float g_share = 0.5f * g[5] * opacities.data[n] / fade;
                g_a += g_share * ((c - BLUR) - share * c) / det;
                g_c += g_share * ((a - BLUR) - share * a) / det;
                g_b -= g_share * 2.0f * b * (1.0f - share) / det;
            }
            // The covariance is A A^T of A = T M, and T = J W: back through the products.
            float g_T[2][3] = {}, g_J[2][3] = {};
            for (int j = 0; j < 3; ++j) {
                const float g_0 = 2.0f * g_a * axes[0][j] + g_b * axes[1][j];
                const float g_1 = g_b * axes[0][j] + 2.0f * g_c * axes[1][j];
                for (int i = 0; i < 3; ++i) {
                    g_T[0][i] += g_0 * M[i][j];
                    g_T[1][i] += g_1 * M[i][j];
                    g_M[i][j] += T[0][i] * g_0 + T[1][i] * g_1;
                }
            }
            for (int r = 0; r < 2; ++r)
                for (int k = 0; k < 3; ++k)
                    for (int i = 0; i < 3; ++i) {
                        g_J[r][k] += g_T[r][i] * V[4 * k + i];
                        g_V[4 * k + i] += J[r][k] * g_T[r][i];
                    }
            float g_p[3] = {g[0] * J[0][0], g[1] * J[1][1], g_depths.data[at]};
            if (perspective) {
                // The center's own ratio is never clamped; the derivative's is.
                g_p[2] -= (g[0] * f[0] * p[0] + g[1] * f[1] * p[1]) / (z * z);
                for (int r = 0; r < 2; ++r) {
                    const float g_ratio = -f[r] / z * g_J[r][2];
                    g_p[2] -= (J[r][r] * g_J[r][r] + J[r][2] * g_J[r][2]) / z;
                    if (ratio[r] == p[r] / z) {
                        g_p[r] += g_ratio / z;
                        g_p[2] -= g_ratio * ratio[r] / z;
                    }
                }
            }
            for (int k = 0; k < 3; ++k) {
                for (int i = 0; i < 3; ++i) {
                    g_mean[i] += V[4 * k + i] * g_p[k];
                    g_V[4 * k + i] += g_p[k] * mean[i];
                }
                g_V[4 * k + 3] = g_p[k];
            }
        }
        if (g_w2c.shape[0] > 0)
            for (int i = 0; i < 12; ++i)
                g_w2c.data[12 * at + i] = g_V[i];
    }
    // M = R diag(s), and R is a polynomial of the unit quaternion.
    float G[3][3];
    for (int j = 0; j < 3; ++j) {
        float g_s = 0.0f;
        for (int i = 0; i < 3; ++i) {
            g_s += g_M[i][j] * R[i][j];
            G[i][j] = g_M[i][j] * scales.data[3 * n + j];
        }
        g_scales.data[3 * n + j] = g_s;
        g_means.data[3 * n + j] = g_mean[j];
    }
    g_opacities.data[n] = g_o;
    const float g_q[4] = {
        2.0f * (x * (G[2][1] - G[1][2]) + y * (G[0][2] - G[2][0]) + t * (G[1][0] - G[0][1])),
        2.0f * (-2.0f * x * (G[1][1] + G[2][2]) + y * (G[0][1] + G[1][0]) + t * (G[0][2] + G[2][0])
            + w * (G[2][1] - G[1][2])),
        2.0f * (x * (G[0][1] + G[1][0]) - 2.0f * y * (G[0][0] + G[2][2]) + t * (G[1][2] + G[2][1])
            + w * (G[0][2] - G[2][0])),
        2.0f * (x * (G[0][2] + G[2][0]) + y * (G[1][2] + G[2][1]) - 2.0f * t * (G[0][0] + G[1][1])
            + w * (G[1][0] - G[0][1])),
    };
    // Along the quaternion itself nothing changes: it is divided by its length.
    const float unit[4] = {w, x, y, t};
    float along = 0.0f;
    for (int i = 0; i < 4; ++i)
        along += g_q[i] * unit[i];
    for (int i = 0; i < 4; ++i)
        g_rotations.data[4 * n + i] = (g_q[i] - along * unit[i]) * inverse_length;
}
