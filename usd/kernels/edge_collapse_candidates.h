// Included in a function's body: the mesh and its heap of candidates, and what is asked of them.
//
//   face_of, has, faces_at     the face of a corner; whether it names a vertex; how many faces have an edge
//   price                      where an edge's ends should meet, and the error there; NEVER where it may not collapse
//   add, add_edges_of          a candidate for an edge; for the edges of a vertex, except to RENEWED ones
//   sift_up, sift_down         the order of the heap; is_stale: one of the ends has changed since
    constexpr double LEAST_TURN = 0.2, LEAST_SHAPE = 0.05, NO_SIDE = 0.01, BORDER_WEIGHT = 10.0, NEVER = 1e300;
    constexpr int BORDER = 1, LOCKED = 2, REFUSED = 4, RENEWED = 8;
    struct Candidate {
        double cost;
        int a, b, version_a, version_b;
    };
    const int n_vertices = vertex.shape[1], capacity = memory.shape[0] / 3;
    int *head = vertex.data, *tail = head + n_vertices, *degree = tail + n_vertices, *version = degree + n_vertices;
    int *mark = version + n_vertices, *flags = mark + n_vertices, *link = next.data, *corner = faces.data;
    double *points = x.data, *quadrics = quadric.data;
    Candidate* heap = reinterpret_cast<Candidate*>(memory.data);
    int size = state.data[0], faces_left = state.data[1], mark_used = state.data[2];

    const auto at = [&](int v) -> const double* { return points + 3 * size_t(v); };
    const auto face_of = [&](int c) -> int* { return corner + (c - c % 3); };
    const auto has = [](const int* f, int v) { return f[0] >= 0 && (f[0] == v || f[1] == v || f[2] == v); };
    const auto dot = [](const double* p, const double* q) { return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]; };
    const auto cross_of = [](const double* p, const double* q, const double* r, double* out) {
        const double u[3] = {q[0] - p[0], q[1] - p[1], q[2] - p[2]}, v[3] = {r[0] - p[0], r[1] - p[1], r[2] - p[2]};
        for (int i = 0; i < 3; ++i)
            out[i] = u[(i + 1) % 3] * v[(i + 2) % 3] - u[(i + 2) % 3] * v[(i + 1) % 3];
    };
    // Height over longest side; the normal, twice the area long, goes to out.
    const auto shape_of = [&](const double* p, const double* q, const double* r, double* out) {
        cross_of(p, q, r, out);
        double longest = 1e-30;
        const double* corners[4] = {p, q, r, p};
        for (int i = 0; i < 3; ++i) {
            double square = 0.0;
            for (int k = 0; k < 3; ++k)
                square += (corners[i][k] - corners[i + 1][k]) * (corners[i][k] - corners[i + 1][k]);
            longest = square > longest ? square : longest;
        }
        return ::sqrt(dot(out, out)) / longest;
    };
    const auto faces_at = [&](int a, int b) {
        int count = 0;
        for (int c = head[a]; c >= 0; c = link[c])
            count += has(face_of(c), b);
        return count;
    };
    const auto price = [&](int a, int b, double* place) {
        if ((flags[a] | flags[b]) & LOCKED)
            return NEVER;
        const bool border_a = flags[a] & BORDER, border_b = flags[b] & BORDER;
        // An inner edge between two borders would pinch the surface.
        if (border_a && border_b && faces_at(a, b) > 1)
            return NEVER;
        double q[10], middle[3], right[3], square = 0.0;
        for (int k = 0; k < 10; ++k)
            q[k] = quadrics[10 * size_t(a) + k] + quadrics[10 * size_t(b) + k];
        for (int k = 0; k < 3; ++k) {
            middle[k] = 0.5 * (at(a)[k] + at(b)[k]);
            square += (at(a)[k] - at(b)[k]) * (at(a)[k] - at(b)[k]);
        }
        // The middle pulls a little: flat regions have one best place then, and short edges go first there.
        const double pull = 1e-6 * (q[0] + q[4] + q[7]) + 1e-12;
        const double w[3] = {q[3], q[6], q[8]};
        for (int k = 0; k < 3; ++k)
            right[k] = pull * middle[k] - w[k];
        // A symmetric 3 x 3 system by Cramer's rule.
        const double xx = q[0] + pull, xy = q[1], xz = q[2], yy = q[4] + pull, yz = q[5], zz = q[7] + pull;
        const double c0[3] = {yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy};
        const double c1[3] = {c0[1], xx * zz - xz * xz, xy * xz - xx * yz};
        const double c2[3] = {c0[2], c1[2], xx * yy - xy * xy};
        const double determinant = xx * c0[0] + xy * c0[1] + xz * c0[2];
        place[0] = dot(c0, right) / determinant;
        place[1] = dot(c1, right) / determinant;
        place[2] = dot(c2, right) / determinant;
        double away = 0.0;
        for (int k = 0; k < 3; ++k)
            away += (place[k] - middle[k]) * (place[k] - middle[k]);
        // Nearly singular systems have their least far away, or nowhere: the middle is safe there.
        const bool near = away <= square;
        for (int k = 0; k < 3; ++k) {
            place[k] = near ? place[k] : middle[k];
            // An edge from the inside to a border ends on the border, which so keeps its shape.
            if (border_a != border_b)
                place[k] = at(border_a ? a : b)[k];
        }
        const double along[3] = {
            q[0] * place[0] + q[1] * place[1] + q[2] * place[2] + 2.0 * w[0],
            q[1] * place[0] + q[4] * place[1] + q[5] * place[2] + 2.0 * w[1],
            q[2] * place[0] + q[5] * place[1] + q[7] * place[2] + 2.0 * w[2]};
        const double error = dot(along, place) + q[9];
        return (error > 0.0 ? error : 0.0) + pull * square;
    };
    const auto is_stale = [&](const Candidate& one) {
        return version[one.a] != one.version_a || version[one.b] != one.version_b;
    };
    const auto sift_down = [&](int i) {
        const Candidate moved = heap[i];
        for (int child; (child = 2 * i + 1) < size; i = child) {
            if (child + 1 < size && heap[child + 1].cost < heap[child].cost)
                ++child;
            if (!(heap[child].cost < moved.cost))
                break;
            heap[i] = heap[child];
        }
        heap[i] = moved;
    };
    const auto sift_up = [&](int i) {
        const Candidate moved = heap[i];
        for (; i > 0 && moved.cost < heap[(i - 1) / 2].cost; i = (i - 1) / 2)
            heap[i] = heap[(i - 1) / 2];
        heap[i] = moved;
    };
    const auto add = [&](int a, int b) {
        double place[3];
        const double cost = price(a, b, place);
        if (!(cost < NEVER))
            return false;
        if (size == capacity) {
            // Full: what is stale goes.
            int kept = 0;
            for (int i = 0; i < size; ++i)
                if (!is_stale(heap[i]))
                    heap[kept++] = heap[i];
            size = kept;
            for (int i = size / 2 - 1; i >= 0; --i)
                sift_down(i);
        }
        if (size == capacity)
            return false;
        heap[size] = Candidate{cost, a, b, version[a], version[b]};
        ++size;
        return true;
    };
    const auto add_edges_of = [&](int a) {
        const int here = ++mark_used;
        for (int c = head[a]; c >= 0; c = link[c])
            for (int k = 0; k < 3; ++k) {
                const int b = face_of(c)[k];
                if (face_of(c)[0] < 0 || b == a || mark[b] == here || (flags[b] & RENEWED))
                    continue;
                mark[b] = here;
                if (add(a, b))
                    sift_up(size - 1);
            }
    };
