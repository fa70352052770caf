        // Included in a loop over blocks: the block's samples, from s on, and the light that reaches them.
        const int n = count - done < BLOCK ? (int)(count - done) : BLOCK;
        const V given = load(matter.data + s, n), starts = load(t_start.data + s, n), ends = load(t_end.data + s, n);
        const V length = ends - starts, twice = ends + starts;
        const V opaque = is_density ? opacity_of(given * length) : given;
        const V left = pass_through(1.0f - opaque, light);
        // Samples in the dark get no weight and no gradient.
        const V weight = keep_if_reached(left * opaque, left);
        const float* f = features.data + s * C;
