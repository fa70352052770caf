// The splats that a picture shows, near to far, and those in each of its tiles. Read splat.py first.
//
// Warp compiles the bodies (native.py); splat_warp.py declares the same arguments in Warp's types.

#include "warp/native/builtin.h"

// Numbers of the splats that a view shows, by depth, and how many they are; the tiles that the splats before each
// cover, and all of them together. Equally far ones keep their order.
inline void order_view(
    int view, int n, wp::array_t<int> boxes, wp::array_t<float> depths, wp::array_t<int> room, wp::array_t<int> splats,
    wp::array_t<int> counts, wp::array_t<int> slots, wp::array_t<wp::int64> covered)
{
    constexpr int SIDE = 16, BITS = 11, VALUES = 1 << BITS, PASSES = 3;
    struct Entry {
        unsigned key;
        int splat;
    };
    const int first = view * n;
    Entry *from = reinterpret_cast<Entry*>(room.data) + 2 * size_t(first), *to = from + n;
    int count = 0, places[PASSES][VALUES] = {};
    wp::int64 n_tiles = 0;
    const auto digit = [](unsigned key, int pass) { return (key >> (BITS * pass)) & (VALUES - 1); };
    for (int k = first; k < first + n; ++k) {
        const int* box = boxes.data + 4 * size_t(k);
        slots.data[k] = (int)n_tiles;
        // What is not seen is left out before sorting.
        if (box[0] >= box[1] || box[2] >= box[3])
            continue;
        const wp::int64 columns = (box[1] - 1) / SIDE - box[0] / SIDE + 1;
        n_tiles += columns * ((box[3] - 1) / SIDE - box[2] / SIDE + 1);
        // Bits of positive floats are in the order of their values, those of negative ones in the opposite.
        union {
            float value;
            unsigned bits;
        } depth = {depths.data[k]};
        const unsigned key = depth.bits ^ (depth.bits >> 31 ? 0xffffffffu : 0x80000000u);
        for (int pass = 0; pass < PASSES; ++pass)
            ++places[pass][digit(key, pass)];
        from[count++] = Entry{key, k};
    }
    // By the lowest digit first: each pass keeps the order of the one before among equals.
    for (int pass = 0; pass < PASSES; ++pass) {
        if (count == 0 || places[pass][digit(from[0].key, pass)] == count)
            continue;
        for (int value = 0, before = 0; value < VALUES; ++value) {
            const int here = places[pass][value];
            places[pass][value] = before;
            before += here;
        }
        for (int k = 0; k < count; ++k)
            to[places[pass][digit(from[k].key, pass)]++] = from[k];
        Entry* other = from;
        from = to;
        to = other;
    }
    for (int k = 0; k < count; ++k)
        splats.data[first + k] = from[k].splat;
    counts.data[view] = count;
    covered.data[view] = n_tiles;
}

// The splats in each tile of a view. While counting, places receives their numbers; then it says where those of each
// tile begin. One walk over all splats: many threads would each have to read all boxes.
inline void list_view(
    int view, int n, int n_rows, int n_columns, wp::array_t<int> boxes, wp::array_t<int> splats,
    wp::array_t<int> counts, wp::array_t<int> places, wp::array_t<int> tiles, bool counting)
{
    constexpr int SIDE = 16;
    int* own = places.data + size_t(view) * n_rows * n_columns;
    for (int k = view * n; k < view * n + counts.data[view]; ++k) {
        const int* box = boxes.data + 4 * size_t(splats.data[k]);
        for (int y = box[2] / SIDE; y <= (box[3] - 1) / SIDE; ++y)
            for (int x = box[0] / SIDE; x <= (box[1] - 1) / SIDE; ++x) {
                int& place = own[y * n_columns + x];
                if (!counting)
                    tiles.data[place] = splats.data[k];
                ++place;
            }
    }
}
