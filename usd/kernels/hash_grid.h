// The hash grid's sums over points at one level, on a CPU and on CUDA alike. Read hash_grid.py first; the six sums are
// listed in hash_grid_warp.py.
//
// Warp compiles the bodies (native.py); hash_grid_warp.py declares the same arguments in Warp's types and defines
//   FEATURES               features of a row
//   PRIME_Y, PRIME_Z       the hash's factors
//   SHIFT, WRAP            cells by which positions are moved; 1 where vertices lie beyond a dense level's last row
//   SLOPE                  the weights are w', derivatives along v, else w
//   GATHER, SCATTER, PULL  what is done with them: 1 or 0; GATHER and PULL together read each row once

#include "warp/native/builtin.h"

// Points are taken in blocks. First the arithmetic, point beside point, so that a CPU's vector unit has them all at
// once; then, point after point, what touches the table: so no address waits for arithmetic. A CUDA thread has one.
inline void sum_over_points(
    wp::array_t<wp::vec3f> x, wp::array_t<wp::vec3f> v, wp::array_t<wp::vec_t<FEATURES, float>> table,
    wp::array_t<wp::vec_t<FEATURES, float>> features, wp::array_t<wp::vec_t<FEATURES, float>> slopes,
    wp::array_t<wp::vec3f> position, int first, int last, int tile_row, float scale, int last_cell, int side, int rows,
    int offset, int dense, int mask)
{
#if defined(__CUDA_ARCH__)
    constexpr int BLOCK = 1;
#else
    // Multiply and add in one instruction, as CUDA does anyway.
    #pragma clang fp contract(fast)
    constexpr int BLOCK = 16;
#endif
    constexpr int F = FEATURES;
    // Plain pointers: Warp's own access would check each index and multiply by a stride.
    float* T = reinterpret_cast<float*>(table.data) + size_t(offset) * F;
    float* tile = reinterpret_cast<float*>(features.data) + size_t(tile_row) * F;
    const unsigned step_y = dense ? unsigned(side) : PRIME_Y, step_z = dense ? unsigned(side * side) : PRIME_Z;
    // Positions p, factors P of w at the lower and upper corner of each axis, rows r of the corners.
    float p[3][BLOCK] = {}, P[3][2][BLOCK];
    unsigned low[3][BLOCK], r[8][BLOCK];
    for (int start = first; start < last; start += BLOCK) {
        const int n = last - start < BLOCK ? last - start : BLOCK;
        // Axis beside axis instead of point beside point, as vector units want it.
        for (int s = 0; s < n; ++s)
            for (int d = 0; d < 3; ++d)
                p[d][s] = x.data[start + s][d];
        // The cell of each point and where in it the point lies; the upper face belongs to the last cell.
        for (int d = 0; d < 3; ++d)
            for (int s = 0; s < BLOCK; ++s) {
                const float inside = p[d][s] < 0.0f ? 0.0f : (p[d][s] > 1.0f ? 1.0f : p[d][s]);
                const float scaled = inside * scale + SHIFT;
                int cell = (int)scaled;
                cell = cell < 0 ? 0 : (cell < last_cell ? cell : last_cell);
                low[d][s] = unsigned(cell);
                P[d][1][s] = scaled - (float)cell;
                P[d][0][s] = 1.0f - P[d][1][s];
            }
        // The rows of the 8 corners. The question of hashing stands outside the loop over points.
        for (int k = 0; k < 8; ++k) {
            const unsigned a = k & 1, b = k >> 1 & 1, c = k >> 2;
            if (dense)
                for (int s = 0; s < BLOCK; ++s) {
                    const unsigned row = low[0][s] + a + (low[1][s] + b) * step_y + (low[2][s] + c) * step_z;
                    // At most one vertex beyond the last along each axis: less than twice the rows.
                    r[k][s] = WRAP && row >= unsigned(rows) ? row - unsigned(rows) : row;
                }
            else
                for (int s = 0; s < BLOCK; ++s) {
                    const unsigned h = (low[0][s] + a) ^ ((low[1][s] + b) * step_y) ^ ((low[2][s] + c) * step_z);
                    r[k][s] = h & unsigned(mask);
                }
        }
#if SLOPE || PULL
        // Derivatives D of the factors P: the scale inside, and 0 where the point was moved to a face.
        float D[3][2][BLOCK];
        for (int d = 0; d < 3; ++d)
            for (int s = 0; s < BLOCK; ++s) {
                D[d][1][s] = p[d][s] >= 0.0f && p[d][s] <= 1.0f ? scale : 0.0f;
                D[d][0][s] = -D[d][1][s];
            }
#endif
#if SLOPE
        // The direction's share of them.
        float u[3][BLOCK] = {}, U[3][2][BLOCK];
        for (int s = 0; s < n; ++s)
            for (int d = 0; d < 3; ++d)
                u[d][s] = v.data[start + s][d];
        for (int d = 0; d < 3; ++d)
            for (int s = 0; s < BLOCK; ++s) {
                U[d][1][s] = D[d][1][s] * u[d][s];
                U[d][0][s] = -U[d][1][s];
            }
#endif
#if GATHER || SCATTER
        // The weights: products of one factor an axis, or by the product rule their derivative along v.
        float w[8][BLOCK];
        for (int k = 0; k < 8; ++k) {
            const int a = k & 1, b = k >> 1 & 1, c = k >> 2;
            for (int s = 0; s < BLOCK; ++s) {
                const float X = P[0][a][s], Y = P[1][b][s], Z = P[2][c][s];
#if SLOPE
                w[k][s] = Z * (U[0][a][s] * Y + X * U[1][b][s]) + X * Y * U[2][c][s];
#else
                w[k][s] = X * Y * Z;
#endif
            }
        }
#endif
#if PULL
        float dot[8][BLOCK] = {};
#endif
        // Now the table, point after point.
        for (int s = 0; s < n; ++s) {
            float* y = tile + size_t(start - first + s) * F;
#if GATHER
            float sum[F] = {};
#endif
#if SCATTER
            // Read once: the compiler cannot know that the table is not where the features are.
            float g[F];
            for (int q = 0; q < F; ++q)
                g[q] = y[q];
#endif
            for (int k = 0; k < 8; ++k) {
                float* row = T + size_t(r[k][s]) * F;
#if GATHER && PULL
                float product = 0.0f;
                for (int q = 0; q < F; ++q) {
                    sum[q] += w[k][s] * row[q];
                    product += row[q] * y[q];
                }
                dot[k][s] = product;
#elif GATHER
                for (int q = 0; q < F; ++q)
                    sum[q] += w[k][s] * row[q];
#elif PULL
                float sum = 0.0f;
                for (int q = 0; q < F; ++q)
                    sum += row[q] * y[q];
                dot[k][s] = sum;
#elif defined(__CUDA_ARCH__)
                for (int q = 0; q < F; ++q)
                    wp::atomic_add(row + q, w[k][s] * g[q]);
#else
                // On a CPU one thread owns a level, so a plain sum is safe.
                for (int q = 0; q < F; ++q)
                    row[q] += w[k][s] * g[q];
#endif
            }
#if GATHER
#if PULL
            // The features that came in are still needed where they are; the slopes have their own place.
            float* out = y - tile + reinterpret_cast<float*>(slopes.data) + size_t(tile_row) * F;
#else
            float* out = y;
#endif
            for (int q = 0; q < F; ++q)
                out[q] = sum[q];
#endif
        }
#if PULL
        // The position's gradient: the gradient of each weight, or of its derivative along v, times its row's product.
        float sum[3][BLOCK] = {};
        for (int k = 0; k < 8; ++k) {
            const int a = k & 1, b = k >> 1 & 1, c = k >> 2;
            for (int s = 0; s < BLOCK; ++s) {
                const float X = P[0][a][s], Y = P[1][b][s], Z = P[2][c][s];
                const float dX = D[0][a][s], dY = D[1][b][s], dZ = D[2][c][s];
#if SLOPE
                // A weight is linear along each axis, so only the mixed second derivatives are not zero.
                const float Ux = U[0][a][s], Uy = U[1][b][s], Uz = U[2][c][s];
                sum[0][s] += dot[k][s] * dX * (Uy * Z + Y * Uz);
                sum[1][s] += dot[k][s] * dY * (Ux * Z + X * Uz);
                sum[2][s] += dot[k][s] * dZ * (Ux * Y + X * Uy);
#else
                sum[0][s] += dot[k][s] * dX * Y * Z;
                sum[1][s] += dot[k][s] * X * dY * Z;
                sum[2][s] += dot[k][s] * X * Y * dZ;
#endif
            }
        }
        // Added, because every level contributes; on CUDA the levels of a point run in several threads.
        for (int s = 0; s < n; ++s)
            for (int d = 0; d < 3; ++d)
                wp::atomic_add(&position.data[start + s][d], sum[d][s]);
#endif
    }
}

// A tile's rows are ordered by level, then point; in the features as the caller knows them by point, then level.
// INTO_TILES is 1 for a copy from rows into tiles, 0 for the way back.
inline void copy_points(
    wp::array_t<wp::vec_t<FEATURES, float>> features, wp::array_t<wp::vec_t<FEATURES, float>> tiles, int first,
    int last, int n_levels, int chunk)
{
    struct Row {
        float number[FEATURES];
    };
    const int n = last - first;
    // Both begin at the same place, the first point's.
    const size_t from = size_t(first) * n_levels;
    Row* rows = reinterpret_cast<Row*>(features.data) + from;
    Row* in_tiles = reinterpret_cast<Row*>(tiles.data) + from;
    // Level after level: a tile's rows stay in the nearest cache, and a tile is read or written in sequence.
    for (int level = 0; level < n_levels; ++level)
        for (int s = 0; s < n; ++s) {
            Row* row = rows + size_t(s) * n_levels + level;
            Row* tile = in_tiles + size_t(level) * chunk + s;
#if INTO_TILES
            *tile = *row;
#else
            *row = *tile;
#endif
        }
}
