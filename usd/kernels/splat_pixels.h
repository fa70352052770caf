// Included in a function's body: the pixels of a tile, in groups of LANES side by side.
//
// A V holds a group: 8 pixels of a row on a CPU, one on CUDA, where each thread has a pixel and one group of its own.
//   tile, tile_x, tile_y   the tile's number among those of all pictures, and its column and row
//   groups_of              the groups begin to end of a row that an ellipse may touch
//   columns, rows_of       positions of a group's pixel centers; pixel_of, inside: its pixels in memory
//   total, add             a sum over a group's pixels, and adding it to memory
#if !defined(__CUDA_ARCH__)
    // Multiply and add in one instruction, as CUDA does anyway.
    #pragma clang fp contract(fast)
#endif
    constexpr int SIDE = 16, C = FEATURES;
    constexpr float LEAST_ALPHA = 1.0f / 255.0f, MOST_ALPHA = 0.999f, LEAST_LIGHT = 1e-4f;
    const int n_columns = (width + SIDE - 1) / SIDE, n_rows = (height + SIDE - 1) / SIDE;
    // The farthest that a splat is drawn, as the square of a distance in standard deviations.
    const auto reach_of = [=](const float* e) { return 2.0f * logf(e[5] / LEAST_ALPHA) + 1e-3f; };
#if defined(__CUDA_ARCH__)
    constexpr int LANES = 1, GROUPS = 1;
    typedef float V;
    typedef bool I;
    #define LANE(x, lane) x
    const float zero = 0.0f;
    const int tile = thread / (SIDE * SIDE), lane_x = thread % SIDE, lane_y = thread / SIDE % SIDE;
#else
    constexpr int LANES = 8, GROUPS = SIDE * SIDE / LANES;
    typedef float V __attribute__((vector_size(32)));
    typedef int I __attribute__((vector_size(32)));
    #define LANE(x, lane) x[lane]
    const V zero = {};
    const int tile = thread;
#endif
    const int tile_x = tile % n_columns, tile_y = tile / n_columns % n_rows;
    const int left_edge = tile_x * SIDE, top_edge = tile_y * SIDE;
    const size_t picture = size_t(tile / (n_columns * n_rows)) * width * height;
#if defined(__CUDA_ARCH__)
    const auto choose = [](bool mask, float x, float y) { return mask ? x : y; };
    const auto exp_of = [](float x) { return expf(x < 0.0f ? x : 0.0f); };
    const auto first_row = [](const int*) { return 0; };
    const auto last_row = [](const int*) { return 1; };
    const auto groups_of = [](int, const float*, const int*, float, int& begin, int& end) { begin = 0; end = 1; };
    const auto columns = [=](int) { return left_edge + lane_x + 0.5f; };
    const auto rows_of = [=](int) { return top_edge + lane_y + 0.5f; };
    const auto inside = [=](int, int) { return left_edge + lane_x < width && top_edge + lane_y < height; };
    const auto pixel_of = [=](int, int) { return picture + size_t(top_edge + lane_y) * width + left_edge + lane_x; };
    // Threads of a tile stay together, for they add up together: nobody leaves early.
    const auto all_dark = [](int, const float*) { return false; };
    const auto total = [](float x) {
        for (int other = 16; other > 0; other /= 2)
            x += __shfl_xor_sync(0xffffffffu, x, other);
        return x;
    };
    const auto add = [](float* place, float x) {
        if ((threadIdx.x & 31) == 0 && x != 0.0f)
            wp::atomic_add(place, x);
    };
#else
    // A choice by masks: a branch would take the lanes one by one.
    const auto choose = [](I mask, V x, V y) { return (V)(((I)x & mask) | ((I)y & ~mask)); };
    const auto exp_of = [=](V x) {
        // exp(x) = 2^k exp(r) with k = round(x / ln 2) and |r| <= ln 2 / 2, where a short series is exact.
        x = choose((I)(x < zero - 80.0f), zero - 80.0f, choose((I)(x > zero), zero, x));
        const V scaled = x * 1.44269504f - 0.5f;
        const I k = __builtin_convertvector(scaled, I);
        // ln 2 in two parts: the first has few digits, so that k times it is exact.
        const V whole = __builtin_convertvector(k, V), r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
        const V series = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f
            + r * (0.00833333333f + r * 0.00138888889f)))));
        // 2^k, written into the bits of the exponent.
        return series * (V)((k + 127) << 23);
    };
    // Rows of the tile in a splat's box.
    const auto first_row = [=](const int* box) { return box[2] > top_edge ? box[2] - top_edge : 0; };
    const auto last_row = [=](const int* box) {
        return box[3] < top_edge + SIDE ? box[3] - top_edge : SIDE;
    };
    const auto groups_of = [=](int row, const float* e, const int* box, float reach, int& begin, int& end) {
        int from = box[0] > left_edge ? box[0] - left_edge : 0;
        int to = box[1] < left_edge + SIDE ? box[1] - left_edge : SIDE;
        const float det = e[2] * e[4] - e[3] * e[3];
        // Of a needle the difference has no digits left: its whole box is looked at then.
        if (det > 1e-4f * e[2] * e[4]) {
            // Where a row of pixels cuts the ellipse: the roots of a quadratic equation.
            const float dy = (float)(top_edge + row) + 0.5f - e[1];
            const float room = reach * e[2] - det * dy * dy;
            const float half = sqrtf(room > 0.0f ? room : 0.0f) / e[2] + 0.01f;
            const float middle = e[0] - e[3] / e[2] * dy - (float)left_edge - 0.5f;
            const float low = middle - half, high = middle + half + 1.0f;
            from = low > (float)from ? (low < (float)SIDE ? (int)low : SIDE) : from;
            to = high < (float)to ? (high > 0.0f ? (int)high + 1 : 0) : to;
        }
        begin = row * (SIDE / LANES) + from / LANES;
        end = from < to ? row * (SIDE / LANES) + (to + LANES - 1) / LANES : begin;
    };
    const V steps = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f};
    const auto columns = [=](int group) { return steps + (float)(left_edge + group % (SIDE / LANES) * LANES); };
    const auto rows_of = [=](int group) { return zero + ((float)(top_edge + group / (SIDE / LANES)) + 0.5f); };
    const auto inside = [=](int group, int lane) {
        return left_edge + group % (SIDE / LANES) * LANES + lane < width && top_edge + group / (SIDE / LANES) < height;
    };
    const auto pixel_of = [=](int group, int lane) {
        return picture + size_t(top_edge + group / (SIDE / LANES)) * width + left_edge
            + group % (SIDE / LANES) * LANES + lane;
    };
    const auto all_dark = [=](int k, const V* light) {
        // Asked now and then: it takes as long as a splat.
        if (k % 32)
            return false;
        V most = zero;
        for (int group = 0; group < GROUPS; ++group)
            most += light[group];
        return ((most[0] + most[4]) + (most[1] + most[5])) + ((most[2] + most[6]) + (most[3] + most[7])) == 0.0f;
    };
    const auto total = [](V x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); };
    const auto add = [](float* place, float x) { *place = x; };
#endif
