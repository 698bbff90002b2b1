// What the attention kernels share: the order of a row's sum over its keys, and where tiles of queries and of keys lie.
//
// Keys are walked in chunks of 32, chunks belong to segments of 512, both counted from the start of the sequence. A segment
// is walked from nothing; then it is merged into those before it, ascending. The first stands as it is.
//
// Own rows of sequence s are cu[s] .. cu[s + 1]. Before them stand prefixes[2 s + 1] rows from row prefixes[2 s] on, the first
// ones of the last sequence before it that has none: its stem. prefixes is null where no sequence has any.
#pragma once

#include "common/math.cuh"

constexpr int CHUNK = 32;     // keys walked at a time, slots of a page
constexpr int SEGMENT = 512;  // keys whose walk begins from nothing

// In f32 a row's maximum is a score, in bf16 it is one times log2 e: what f32 kernels take e to the power of, bf16 kernels take 2.
constexpr float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;

// The factor of what lies so far from a maximum.
template <class T>
__device__ __forceinline__ float below_max(float x);
template <>
__device__ __forceinline__ float below_max<float>(float x) {
    return exp_log_prob_f32(x);
}
template <>
__device__ __forceinline__ float below_max<bf16>(float x) {
    return exp2_log_prob_f32(x);
}

// What a merge multiplies the output of the segments so far by, and that of the segment behind them.
struct Merge {
    float total, part;
};

// max, sum of the segments so far take those of the segment behind them, of which the row has seen a key.
template <class T>
__device__ __forceinline__ Merge merge_segment(float& max, float& sum, float part_max, float part_sum) {
    float top = part_max > max ? part_max : max;
    Merge by = {below_max<T>(max - top), below_max<T>(part_max - top)};
    sum = fmaf(part_sum, by.part, sum * by.total);
    max = top;
    return by;
}

// Own rows tile .. tile + rows of a sequence of len own rows that start at row start; rows is 0 where there is none.
struct Tile {
    int64_t start;
    int32_t len;
    int32_t tile;
    int32_t rows;
    int32_t seq;
    int32_t prefix;     // rows that stand before the own ones
    int64_t prefix_at;  // the first of them

    // Row of a position of the sequence.
    __device__ __forceinline__ int64_t row_of(int32_t position) const {
        return position < prefix ? prefix_at + position : start + position - prefix;
    }
};

// Tile number slot of cu_seqlens [B + 1], in tiles of ROWS. Sequence s owns slots from cu[s] / ROWS + s on: never fewer
// than it has tiles, so that no list of tiles is needed; spare slots have no rows.
template <int ROWS>
__device__ __forceinline__ Tile tile_at(const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes,
                                        int32_t n_seqs, int64_t slot) {
    int32_t low = 0, high = n_seqs;
    while (high - low > 1) {
        int32_t middle = (low + high) / 2;
        if (cu[middle] / ROWS + middle <= slot) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int32_t len = cu[low + 1] - cu[low];
    int32_t tile = (int32_t)(slot - (cu[low] / ROWS + low)) * ROWS;
    int32_t rows = len - tile;
    Tile at = {cu[low], len, tile, rows < 0 ? 0 : rows < ROWS ? rows : ROWS, low, 0, 0};
    if (prefixes) at.prefix_at = prefixes[2 * low], at.prefix = prefixes[2 * low + 1];
    return at;
}

// The queries that see keys of a tile, in the order in which their gradients are summed: of its own sequence, then of the
// sequences that stand on it; of each in tiles that begin at multiples of CHUNK positions; of each tile head by head of the
// group.
struct QueryTiles {
    const int32_t* cu;
    const int32_t* prefixes;
    int32_t n_seqs, group, tile;  // tile: own row of the first key
    bool stem;                    // sequences may stand on the keys'
    bool own;                     // the queries are of the keys' sequence
    int32_t seq, prefix, len;     // of the queries
    int64_t start;
    int32_t first, rows;  // own rows first .. first + rows; rows is 0 behind the last tile
    int32_t head;         // of the group

    __device__ __forceinline__ QueryTiles(const int32_t* cu, const int32_t* prefixes, int32_t n_seqs, int32_t group,
                                          const Tile& at)
        : cu(cu), prefixes(prefixes), n_seqs(n_seqs), group(group), tile(at.tile), stem(prefixes && at.prefix == 0),
          own(true), seq(at.seq), prefix(at.prefix), len(at.len), start(at.start), head(0) {
        first = (prefix + tile) / CHUNK * CHUNK - prefix;
        if (first < 0) first = 0;
        cut();
    }

    // Ends the tile that begins with own row first.
    __device__ __forceinline__ void cut() {
        rows = CHUNK - (prefix + first) % CHUNK;
        if (rows > len - first) rows = len - first;
    }

    __device__ __forceinline__ void next() {
        if (++head < group) return;
        head = 0;
        first += rows;
        while (first >= len) {
            rows = 0;
            if (!stem || ++seq >= n_seqs) return;
            prefix = prefixes[2 * seq + 1];
            if (prefix == 0) return;
            own = false;
            start = cu[seq];
            // One whose prefix ends before these keys sees none of them.
            first = 0, len = prefix > tile ? cu[seq + 1] - cu[seq] : 0;
        }
        cut();
    }

    // How many keys of the tile a query sees: the first ones.
    __device__ __forceinline__ int32_t seen(int query) const {
        return query >= rows ? 0 : own ? first + query + 1 - tile : prefix - tile;
    }
};
