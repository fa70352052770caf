// Edge collapses in order of their cost, on one CPU thread. Read edge_collapse.py first: what may collapse, and where
// to, is written down there.
//
// Warp compiles the bodies (native.py); edge_collapse_warp.py declares the same arguments in Warp's types.
//   vertex    6 numbers for each vertex, as rows: head and tail of its list of corners, its number of faces, a version
//             that changes with it, a mark, flags
//   next      for each corner of a face the next one at the same vertex; -1 behind the last
//   memory    a heap of candidates, three doubles each
//   state     number of candidates, faces left, the last mark

#include "warp/native/builtin.h"

// Lists of corners, quadrics, borders; and a candidate for every edge.
inline void start_collapses(
    wp::array_t<double> x, wp::array_t<double> quadric, wp::array_t<int> faces, wp::array_t<int> vertex,
    wp::array_t<int> next, wp::array_t<double> memory, wp::array_t<int> state)
{
#include "edge_collapse_candidates.h"
    const int n_corners = faces.shape[0];
    for (int v = 0; v < n_vertices; ++v)
        head[v] = tail[v] = -1;
    for (int c = 0; c < n_corners; ++c) {
        int* f = face_of(c);
        // A face that names a vertex twice has no area and no place in any fan.
        if (c % 3 == 0 && (f[0] == f[1] || f[1] == f[2] || f[2] == f[0])) {
            f[0] = -1;
            --faces_left;
        }
        if (f[0] < 0)
            continue;
        const int v = corner[c];
        link[c] = -1;
        if (head[v] < 0)
            head[v] = c;
        else
            link[tail[v]] = c;
        tail[v] = c;
        ++degree[v];
    }
    const auto add_plane = [&](int v, const double* n, double offset, double weight) {
        const double plane[4] = {n[0], n[1], n[2], offset};
        double* q = quadrics + 10 * size_t(v);
        for (int i = 0, k = 0; i < 4; ++i)
            for (int j = i; j < 4; ++j, ++k)
                q[k] += weight * plane[i] * plane[j];
    };
    for (int c = 0; c < n_corners; c += 3) {
        const int* f = face_of(c);
        if (f[0] < 0)
            continue;
        double normal[3];
        cross_of(at(f[0]), at(f[1]), at(f[2]), normal);
        const double length = ::sqrt(dot(normal, normal));
        const double unit = 1.0 / (length > 1e-12 ? length : 1e-12);
        for (int k = 0; k < 3; ++k)
            normal[k] *= unit;
        for (int k = 0; k < 3; ++k)
            add_plane(f[k], normal, -dot(normal, at(f[0])), 0.5 * length);
        for (int k = 0; k < 3; ++k) {
            const int a = f[k], b = f[(k + 1) % 3], count = faces_at(a, b);
            if (count > 2) {
                flags[a] |= LOCKED;
                flags[b] |= LOCKED;
            }
            if (count != 1)
                continue;
            flags[a] |= BORDER;
            flags[b] |= BORDER;
            // A wall stands on each border edge, at a right angle to its face: leaving it costs like leaving a plane.
            double along[3], wall[3];
            for (int i = 0; i < 3; ++i)
                along[i] = at(b)[i] - at(a)[i];
            for (int i = 0; i < 3; ++i)
                wall[i] = along[(i + 1) % 3] * normal[(i + 2) % 3] - along[(i + 2) % 3] * normal[(i + 1) % 3];
            const double high = ::sqrt(dot(wall, wall));
            for (int i = 0; i < 3; ++i)
                wall[i] /= high > 1e-12 ? high : 1e-12;
            const int ends[2] = {a, b};
            for (int end : ends)
                add_plane(end, wall, -dot(wall, at(a)), BORDER_WEIGHT * dot(along, along));
        }
    }
    for (int c = 0; c < n_corners; c += 3) {
        const int* f = face_of(c);
        if (f[0] < 0)
            continue;
        for (int k = 0; k < 3; ++k) {
            const int a = f[k], b = f[(k + 1) % 3];
            // The first face that has an edge speaks for it.
            bool first = true;
            for (int other = head[a]; other >= 0 && first; other = link[other])
                first = !(other / 3 < c / 3 && has(face_of(other), b));
            if (first)
                add(a, b);
        }
    }
    for (int i = size / 2 - 1; i >= 0; --i)
        sift_down(i);
    state.data[0] = size;
    state.data[1] = faces_left;
}

// Collapse the cheapest edges, at most so many, until the target is reached or no edge is left.
inline void collapse_cheapest(
    int most, int target, wp::array_t<double> x, wp::array_t<double> quadric, wp::array_t<int> faces,
    wp::array_t<int> vertex, wp::array_t<int> next, wp::array_t<double> memory, wp::array_t<int> state)
{
#include "edge_collapse_candidates.h"
    // Corners of removed faces leave a list here, so that lists stay as short as fans.
    const auto relink = [&](int v) {
        int* from = &head[v];
        tail[v] = -1;
        for (int c = *from; c >= 0; c = link[c]) {
            if (face_of(c)[0] < 0)
                continue;
            *from = c;
            from = &link[c];
            tail[v] = c;
        }
        *from = -1;
    };
    // The link condition (Dey et al. 1999): the common neighbors of the ends are the vertices opposite to the edge, and
    // each of these keeps at least three neighbors. A border counts as one more neighbor.
    const auto keeps_topology = [&](int a, int b) {
        const int near_a = ++mark_used, near_both = ++mark_used;
        int at_edge = 0, common = 0;
        for (int c = head[a]; c >= 0; c = link[c]) {
            const int* f = face_of(c);
            if (f[0] < 0)
                continue;
            const bool both = has(f, b);
            at_edge += both;
            for (int k = 0; k < 3; ++k) {
                mark[f[k]] = near_a;
                if (both && f[k] != a && f[k] != b && degree[f[k]] + ((flags[f[k]] & BORDER) != 0) <= 3)
                    return false;
            }
        }
        for (int c = head[b]; c >= 0; c = link[c]) {
            const int* f = face_of(c);
            for (int k = 0; k < 3 && f[0] >= 0; ++k)
                if (f[k] != a && f[k] != b && mark[f[k]] == near_a) {
                    mark[f[k]] = near_both;
                    ++common;
                }
        }
        return common == at_edge;
    };
    // No face around turns over, and none becomes a worse sliver than there was.
    const auto keeps_faces = [&](int a, int b, const double* place) {
        double worst_before = LEAST_SHAPE, worst = 1.0;
        const int ends[2] = {a, b};
        for (int end : ends)
            for (int c = head[end]; c >= 0; c = link[c]) {
                const int* f = face_of(c);
                if (f[0] < 0)
                    continue;
                double before[3], after[3];
                const double shape_before = shape_of(at(f[0]), at(f[1]), at(f[2]), before);
                worst_before = shape_before < worst_before ? shape_before : worst_before;
                if (has(f, a) && has(f, b))
                    continue;
                const double* p[3];
                for (int k = 0; k < 3; ++k)
                    p[k] = f[k] == end ? place : at(f[k]);
                const double shape = shape_of(p[0], p[1], p[2], after);
                worst = shape < worst ? shape : worst;
                const double length = ::sqrt(dot(after, after));
                const double limit = LEAST_TURN * ::sqrt(dot(before, before)) * length;
                // Slivers have no normal worth keeping: they may turn, but nothing may lose its area.
                if (length <= 1e-14 || (shape_before > NO_SIDE && dot(before, after) < limit))
                    return false;
            }
        return worst >= worst_before;
    };
    // b becomes a: its corners are renamed, the faces at the edge removed.
    const auto join = [&](int a, int b, const double* place) {
        for (int k = 0; k < 3; ++k)
            points[3 * size_t(a) + k] = place[k];
        for (int k = 0; k < 10; ++k)
            quadrics[10 * size_t(a) + k] += quadrics[10 * size_t(b) + k];
        flags[a] = (flags[a] | (flags[b] & BORDER)) & ~REFUSED;
        degree[a] += degree[b];
        int opposite[2], n_opposite = 0;
        for (int c = head[b]; c >= 0; c = link[c]) {
            int* f = face_of(c);
            if (f[0] < 0)
                continue;
            if (!has(f, a)) {
                corner[c] = a;
                continue;
            }
            for (int k = 0; k < 3; ++k)
                if (f[k] != a && f[k] != b && n_opposite < 2) {
                    --degree[f[k]];
                    opposite[n_opposite++] = f[k];
                }
            f[0] = -1;
            degree[a] -= 2;
            --faces_left;
        }
        link[tail[a]] = head[b];
        head[b] = -1;
        ++version[a];
        ++version[b];
        relink(a);
        for (int k = 0; k < n_opposite; ++k)
            relink(opposite[k]);
    };
    // New candidates for the edges of a, and for those around it that were refused: what refused them may be gone.
    const auto renew_around = [&](int a) {
        for (int c = head[a]; c >= 0; c = link[c])
            for (int k = 0; k < 3; ++k) {
                const int v = face_of(c)[k];
                if (flags[v] & REFUSED) {
                    flags[v] = (flags[v] & ~REFUSED) | RENEWED;
                    ++version[v];
                }
            }
        add_edges_of(a);
        for (int c = head[a]; c >= 0; c = link[c])
            for (int k = 0; k < 3; ++k) {
                const int v = face_of(c)[k];
                if (flags[v] & RENEWED) {
                    // Where two such vertices share an edge, the one that comes last adds it.
                    flags[v] &= ~RENEWED;
                    add_edges_of(v);
                }
            }
    };
    for (int done = 0; done < most && size > 0 && faces_left > target;) {
        const Candidate best = heap[0];
        heap[0] = heap[--size];
        sift_down(0);
        if (is_stale(best))
            continue;
        double place[3];
        price(best.a, best.b, place);
        if (!keeps_topology(best.a, best.b) || !keeps_faces(best.a, best.b, place)) {
            // Not tried again until something around it has changed.
            flags[best.a] |= REFUSED;
            flags[best.b] |= REFUSED;
            continue;
        }
        join(best.a, best.b, place);
        renew_around(best.a);
        ++done;
    }
    state.data[0] = size;
    state.data[1] = faces_left;
    state.data[2] = mark_used;
}
