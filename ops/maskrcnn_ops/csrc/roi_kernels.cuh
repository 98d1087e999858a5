// CUDA kernels of the RoI operators. A block handles one region (forward and atomic backward) or one tile of a gradient map
// (gathering backward). It keeps the taps of the region in shared memory. Its threads run along channels, with 16 bytes
// each if the layout is channels-last. The kernels use only those parts of CUDA that tests/ops/cuda_on_cpu.h emulates.
#pragma once

#include <limits>

#include "roi_device.cuh"

namespace maskrcnn_ops {

constexpr int kThreads = 256;
constexpr int kTile = 8;    // cells, along each axis of a gradient map
constexpr int kLanes = 32;  // vectors of channels that the block of a tile sums at once

// V neighbouring channels, read and written 16 bytes at a time.
template <typename T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Vector {
  T at[V];
};

template <int N>
struct Quads {
  uint4 at[N];
};

template <typename T, int V>
__device__ inline Vector<T, V> load(const T* from) {
  return *reinterpret_cast<const Vector<T, V>*>(from);
}

// Plain stores of 16 bytes are sometimes compiled to four stores of 4 bytes; this one is not.
template <typename T, int V>
__device__ inline void store(T* to, const Vector<T, V>& values) {
  constexpr int kQuads = sizeof(values) / sizeof(uint4);
  if constexpr (kQuads == 0) {
    *reinterpret_cast<Vector<T, V>*>(to) = values;
  } else {
    const auto quads = __builtin_bit_cast(Quads<kQuads>, values);
    MASKRCNN_UNROLL
    for (int i = 0; i < kQuads; ++i) __stwb(reinterpret_cast<uint4*>(to) + i, quads.at[i]);
  }
}

template <typename T, typename G, int V>
__device__ inline void store_sums(T* to, const G (&sums)[V]) {
  Vector<T, V> values;
  MASKRCNN_UNROLL
  for (int v = 0; v < V; ++v) values.at[v] = static_cast<T>(sums[v]);
  store<T, V>(to, values);
}

template <typename T, typename G, int V>
__device__ inline void add_weighted(const T* from, G weight, G (&sums)[V]) {
  const Vector<T, V> values = load<T, V>(from);
  MASKRCNN_UNROLL
  for (int v = 0; v < V; ++v) sums[v] = ::fma(weight, static_cast<G>(values.at[v]), sums[v]);
}

// The values that a thread computes: V channels from c on, of bin (p, q). `at` is their index in the output. Threads run
// along the dimension that is fastest in memory.
struct Item {
  int c, p, q;
  int64_t at;
};

template <int V>
__device__ inline Item item_of(const Family& f, int64_t region, int index) {
  const int bins = static_cast<int>(f.height * f.width);
  const int channels = static_cast<int>(f.channels);
  const int bin = f.channels_last ? index / (channels / V) : index % bins;
  const int c = f.channels_last ? index % (channels / V) * V : index / bins;
  const int width = static_cast<int>(f.width);
  const int64_t at = region * channels * bins + (f.channels_last ? bin * channels + c : c * bins + bin);
  return {c, bin / width, bin % width, at};
}

template <int V>
__device__ inline int items_of(const Family& f) {
  return static_cast<int>(f.height * f.width * f.channels / V);
}

// The first cell of the map that an item reads.
template <typename T, typename G>
__device__ inline T* map_of(const Family& f, const Maps& maps, const Region<G>& r, const Item& item) {
  const Level& level = f.level[r.level];
  return static_cast<T*>(maps.data[r.level]) + r.image * level.image_stride + item.c * level.channel_stride +
         (item.p * f.width + item.q) * level.bin_stride;
}

// Builds the taps of the bins of a region, rows first. Returns false, to all threads, if a bin reads too many cells.
template <typename G>
__device__ inline bool build_taps(const Family& f, const Region<G>& r, TapList<G>* taps) {
  bool fits = true;
  for (int b = threadIdx.x; b < f.height + f.width; b += kThreads) {
    if (b < f.height) taps[b].build(r.y, b, f.switches);
    else taps[b].build(r.x, b - f.height, f.switches);
    fits = fits && taps[b].count >= 0;
  }
  return __syncthreads_and(fits);
}

// The mean over the points of a bin, read one by one.
template <typename T, typename G, int V>
__device__ inline void mean_of_points(
    const Family& f, const Region<G>& r, const Item& item, const T* map, G (&sums)[V]) {
  const Level& level = f.level[r.level];
  taps_of_bin(r.y, item.p, f.switches, [&](int64_t row, G by_row) {
    taps_of_bin(r.x, item.q, f.switches, [&](int64_t column, G by_column) {
      add_weighted<T, G, V>(map + row * level.row_stride + column * level.column_stride, by_row * by_column, sums);
    });
  });
}

template <typename T, typename G, int V>
__device__ inline void mean_of_taps(
    const Level& level, const TapList<G>& rows, const TapList<G>& columns, const T* map, G (&sums)[V]) {
  for (int i = 0; i < rows.count; ++i) {
    const T* row = map + rows.cell[i] * level.row_stride;
    for (int j = 0; j < columns.count; ++j)
      add_weighted<T, G, V>(row + columns.cell[j] * level.column_stride, rows.weight[i] * columns.weight[j], sums);
  }
}

// Grid: [regions, parts of their values].
template <typename T, typename G, int V>
__global__ void mean_kernel(const __grid_constant__ Family f, const __grid_constant__ Maps maps, const G* boxes, const int64_t* image, T* out) {
  MASKRCNN_SHARED(TapList<G>, taps);
  const int64_t k = blockIdx.x;
  const Region<G> r = region_of(f, boxes + 4 * k, image[k]);
  const bool listed = r.valid && build_taps(f, r, taps);
  for (int index = blockIdx.y * kThreads + threadIdx.x; index < items_of<V>(f); index += gridDim.y * kThreads) {
    const Item item = item_of<V>(f, k, index);
    G sums[V] = {};
    if (r.valid) {
      const T* map = map_of<const T>(f, maps, r, item);
      if (listed) mean_of_taps<T, G, V>(f.level[r.level], taps[item.p], taps[f.height + item.q], map, sums);
      else mean_of_points<T, G, V>(f, r, item, map, sums);
    }
    store_sums<T, G, V>(out + item.at, sums);
  }
}

// The values at the winners of a maximum.
template <typename T, typename G>
__global__ void winners_kernel(
    const __grid_constant__ Family f, const __grid_constant__ Maps maps, const G* boxes, const int64_t* image, const int32_t* winner, T* out) {
  const int64_t k = blockIdx.x;
  const Region<G> r = region_of(f, boxes + 4 * k, image[k]);
  for (int index = blockIdx.y * kThreads + threadIdx.x; index < items_of<1>(f); index += gridDim.y * kThreads) {
    const Item item = item_of<1>(f, k, index);
    G value = 0;
    if (r.valid && winner[item.at] >= 0) {
      const Level& level = f.level[r.level];
      Tap<G> y, x;
      taps_of_winner(r, item.p, item.q, winner[item.at], level, f.switches, &y, &x);
      value = value_at(map_of<const T>(f, maps, r, item), level, y, x);
    }
    out[item.at] = static_cast<T>(value);
  }
}

// The points of a bin whose maximum is taken, and whether zeros from outside the map are among them.
struct Candidates {
  Span rows;
  Span columns;
  bool outside;
};

template <typename G>
__device__ inline Candidates candidates_of(const Region<G>& r, const Item& item, const Switches& s) {
  const Span rows = points_of_bin(r.y, item.p, s);
  const Span columns = points_of_bin(r.x, item.q, s);
  const bool none = rows.count * columns.count == 0;
  return {rows, columns, none || reaches_outside(r.y, rows, s) || reaches_outside(r.x, columns, s)};
}

template <typename G>
struct Best {
  G value;
  int32_t winner;

  // NaN wins. With zeros from outside, other values must be larger than 0.
  __device__ void offer(G other, int32_t number, bool outside) {
    if (!(other > value || other != other || (winner < 0 && !outside))) return;
    value = other;
    winner = number;
  }
};

template <typename T, typename G, int V>
__device__ inline void best_cell(const Level& level, const Candidates& from, const T* map, Best<G> (&best)[V]) {
  for (int64_t y = from.rows.first; y < from.rows.first + from.rows.count; ++y) {
    for (int64_t x = from.columns.first; x < from.columns.first + from.columns.count; ++x) {
      const Vector<T, V> values = load<T, V>(map + y * level.row_stride + x * level.column_stride);
      const auto number = static_cast<int32_t>(y * level.width + x);
      MASKRCNN_UNROLL
      for (int v = 0; v < V; ++v) best[v].offer(static_cast<G>(values.at[v]), number, from.outside);
    }
  }
}

template <typename T, typename G>
__device__ inline void best_sample(
    const Family& f, const Region<G>& r, const Item& item, const Candidates& from, const T* map, Best<G>* best) {
  for (int64_t i = 0; i < from.rows.count; ++i) {
    const Tap<G> y = tap_of_point(r.y, item.p, from.rows.first + i, f.switches);
    for (int64_t j = 0; j < from.columns.count; ++j) {
      const Tap<G> x = tap_of_point(r.x, item.q, from.columns.first + j, f.switches);
      best->offer(value_at(map, f.level[r.level], y, x), static_cast<int32_t>(i * from.columns.count + j), from.outside);
    }
  }
}

// V > 1 requires bin rounding: the points are cells.
template <typename T, typename G, int V>
__global__ void maximum_kernel(
    const __grid_constant__ Family f, const __grid_constant__ Maps maps, const G* boxes, const int64_t* image, T* out, int32_t* winner) {
  const int64_t k = blockIdx.x;
  const Region<G> r = region_of(f, boxes + 4 * k, image[k]);
  for (int index = blockIdx.y * kThreads + threadIdx.x; index < items_of<V>(f); index += gridDim.y * kThreads) {
    const Item item = item_of<V>(f, k, index);
    Best<G> best[V];
    MASKRCNN_UNROLL
    for (int v = 0; v < V; ++v) best[v] = {G(0), -1};
    if (r.valid) {
      const Level& level = f.level[r.level];
      const T* map = map_of<const T>(f, maps, r, item);
      const Candidates from = candidates_of(r, item, f.switches);
      const G least = from.outside ? G(0) : -std::numeric_limits<G>::infinity();
      MASKRCNN_UNROLL
      for (int v = 0; v < V; ++v) best[v].value = least;
      if (f.switches.bin_rounding) best_cell<T, G, V>(level, from, map, best);
      else best_sample(f, r, item, from, map, best);
    }
    Vector<T, V> values;
    Vector<int32_t, V> winners;
    MASKRCNN_UNROLL
    for (int v = 0; v < V; ++v) {
      values.at[v] = static_cast<T>(best[v].value);
      winners.at[v] = best[v].winner;
    }
    store<T, V>(out + item.at, values);
    store<int32_t, V>(winner + item.at, winners);
  }
}

template <typename G>
__device__ inline void scatter_winner(
    const Family& f, const Region<G>& r, const Item& item, int32_t winner, G part, G* map) {
  if (winner < 0) return;
  const Level& level = f.level[r.level];
  Tap<G> y, x;
  taps_of_winner(r, item.p, item.q, winner, level, f.switches, &y, &x);
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const G weight = (i ? y.weight_high : y.weight_low) * (j ? x.weight_high : x.weight_low);
      if (weight != G(0))
        atomicAdd(map + (i ? y.high : y.low) * level.row_stride + (j ? x.high : x.low) * level.column_stride, weight * part);
    }
  }
}

// The adjoint with atomics; the order of the sums is not fixed. `maps` hold sums of type G and are zero before.
template <typename T, typename G>
__global__ void scatter_kernel(
    const __grid_constant__ Family f, const __grid_constant__ Maps maps, const T* grad, const G* boxes, const int64_t* image, const int32_t* winner) {
  MASKRCNN_SHARED(TapList<G>, taps);
  const int64_t k = blockIdx.x;
  const Region<G> r = region_of(f, boxes + 4 * k, image[k]);
  if (!r.valid) return;
  const bool listed = !winner && build_taps(f, r, taps);
  const Level& level = f.level[r.level];
  for (int index = blockIdx.y * kThreads + threadIdx.x; index < items_of<1>(f); index += gridDim.y * kThreads) {
    const Item item = item_of<1>(f, k, index);
    const G part = static_cast<G>(grad[item.at]);
    G* map = map_of<G>(f, maps, r, item);
    const auto add = [&](int64_t row, int64_t column, G weight) {
      atomicAdd(map + row * level.row_stride + column * level.column_stride, weight * part);
    };
    if (winner) {
      scatter_winner(f, r, item, winner[item.at], part, map);
    } else if (listed) {
      const TapList<G>& rows = taps[item.p];
      const TapList<G>& columns = taps[f.height + item.q];
      for (int i = 0; i < rows.count; ++i)
        for (int j = 0; j < columns.count; ++j) add(rows.cell[i], columns.cell[j], rows.weight[i] * columns.weight[j]);
    } else {
      taps_of_bin(r.y, item.p, f.switches, [&](int64_t row, G by_row) {
        taps_of_bin(r.x, item.q, f.switches, [&](int64_t column, G by_column) { add(row, column, by_row * by_column); });
      });
    }
  }
}

}  // namespace maskrcnn_ops
