// Included in a function's body: the vectors in which compositing takes samples, and what is done with them.
//
// A V holds BLOCK samples of one ray: 8 on a CPU, one on CUDA, where each thread has a ray of its own.
//   load, store            memory to and from a V; load fills up with zeros, samples of nothing
//   opacity_of             1 - exp(-x), exact for small x too
//   pass_through           the light left before each sample, q being 1 - alpha; light goes on to the next block
//   look_back              B of each sample (see ray_march_composite_backward.h); behind goes on to the block before
//   keep_if_reached        x where at least the least light is left, else 0
#if defined(__CUDA_ARCH__)
    constexpr int BLOCK = 1;
    typedef float V;
    const auto load = [](const float* p, int n) { return *p; };
    const auto store = [](float* p, V x, int n) { *p = x; };
    const auto total = [](V x) { return x; };
    const auto keep_if_reached = [=](V x, V left) { return left >= least ? x : 0.0f; };
    const auto opacity_of = [](V x) { return -expm1f(-x); };
    const auto pass_through = [](V q, float& light) {
        const V left = light;
        light *= q;
        return left;
    };
    const auto look_back = [](V m, V q, float& behind) {
        const V later = behind;
        behind = m + q * behind;
        return later;
    };
#else
    constexpr int BLOCK = 8;
    // Samples of a ray begin anywhere, so vectors in memory are aligned as single numbers are.
    typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
    typedef int I __attribute__((vector_size(32), aligned(4), may_alias));
    #define SHUFFLE __builtin_shufflevector
    const V zero = {}, one = zero + 1.0f;
    const auto load = [](const float* p, int n) {
        if (n >= 8)
            return *(const V*)p;
        // The ray ends here: what follows in memory belongs to the next one, or to nobody.
        float part[8] = {};
        for (int j = 0; j < n; ++j)
            part[j] = p[j];
        return *(const V*)part;
    };
    const auto store = [](float* p, V x, int n) {
        if (n >= 8)
            *(V*)p = x;
        else
            for (int j = 0; j < n; ++j)
                p[j] = x[j];
    };
    const auto total = [](V x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); };
    // A choice by masks: a branch would take the lanes one by one.
    const auto choose = [](I mask, V x, V y) { return (V)(((I)x & mask) | ((I)y & ~mask)); };
    const auto keep_if_reached = [=](V x, V left) { return choose((I)(left >= zero + least), x, zero); };
    const auto opacity_of = [=](V x) {
        // Beyond 87 the exponent leaves a float's range; the result has been 1 for long.
        const V most = zero + 87.0f, some = choose((I)(x > most), most, x);
        // exp(y) = 2^k exp(e) with k = round(y / ln 2) and |e| <= ln 2 / 2, where a short series is exact.
        const V y = -choose((I)(some < -most), -most, some), z = y * 1.44269504f;
        const I k = __builtin_convertvector(z + choose((I)(z < zero), zero - 0.5f, zero + 0.5f), I);
        // ln 2 in two parts: the first has few digits, so that k times it is exact.
        const V whole = __builtin_convertvector(k, V), e = (y - whole * 0.693145752f) - whole * 1.42860677e-6f;
        // exp(e) - 1 and not exp(e): nothing may cancel where x is small.
        const V series = e + e * e * (0.5f + e * (0.166666667f + e * (0.0416666667f
            + e * (0.00833333333f + e * (0.00138888889f + e * 0.000198412698f)))));
        // 2^k, written into the bits of the exponent.
        const V power = (V)((k + 127) << 23);
        return (one - power) - power * series;
    };
    const auto pass_through = [=](V q, float& light) {
        // Products from the first sample on in three rounds: each lane joins with those 1, 2 and 4 places before it.
        q *= SHUFFLE(q, one, 8, 0, 1, 2, 3, 4, 5, 6);
        q *= SHUFFLE(q, one, 8, 9, 0, 1, 2, 3, 4, 5);
        q *= SHUFFLE(q, one, 8, 9, 10, 11, 0, 1, 2, 3);
        // Light reaches a sample through those before it, and not through itself.
        const V left = light * SHUFFLE(q, one, 8, 0, 1, 2, 3, 4, 5, 6);
        light *= q[7];
        return left;
    };
    const auto look_back = [=](V m, V q, float& behind) {
        // The recurrence B <- m + q B over 8 samples, likewise with the lanes 1, 2 and 4 places behind.
        m += q * SHUFFLE(m, zero, 1, 2, 3, 4, 5, 6, 7, 8);
        q *= SHUFFLE(q, one, 1, 2, 3, 4, 5, 6, 7, 8);
        m += q * SHUFFLE(m, zero, 2, 3, 4, 5, 6, 7, 8, 9);
        q *= SHUFFLE(q, one, 2, 3, 4, 5, 6, 7, 8, 9);
        m += q * SHUFFLE(m, zero, 4, 5, 6, 7, 8, 9, 10, 11);
        q *= SHUFFLE(q, one, 4, 5, 6, 7, 8, 9, 10, 11);
        const V all = m + q * behind, later = SHUFFLE(all, zero + behind, 1, 2, 3, 4, 5, 6, 7, 8);
        behind = all[0];
        return later;
    };
#endif
