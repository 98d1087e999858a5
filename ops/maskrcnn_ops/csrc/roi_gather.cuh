// The adjoint without atomics. One thread sums each cell of a gradient map over the regions that reach it, in their order,
// and writes it once. The sums are bitwise repeatable. Maps, gradients and winners are channels-last.
#pragma once

#include "roi_kernels.cuh"

namespace maskrcnn_ops {

// A region and the window of cells that it reads.
template <typename G>
struct Footprint {
  Region<G> region;
  Reach rows;
  Reach columns;
};

// The images and levels of kThreads consecutive regions. Tiles of other images or levels skip them.
struct Round {
  int first_image;
  int last_image;
  unsigned levels;  // one bit each

  __host__ __device__ bool holds(int64_t image, int level) const {
    return first_image <= image && image <= last_image && (levels >> level & 1);
  }
};

inline int64_t rounds_of(int64_t regions) { return (regions + kThreads - 1) / kThreads; }

// One block for each round.
template <typename G>
__global__ void footprint_kernel(Family f, const G* boxes, const int64_t* image, Footprint<G>* footprints, Round* rounds) {
  __shared__ Round round;
  if (threadIdx.x == 0) round = {std::numeric_limits<int>::max(), -1, 0};
  __syncthreads();
  const int64_t k = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (k < f.regions) {
    const Region<G> r = region_of(f, boxes + 4 * k, image[k]);
    footprints[k] = {r, r.valid ? reach_of(r.y, f.height) : Reach{0, -1}, r.valid ? reach_of(r.x, f.width) : Reach{0, -1}};
    if (r.valid) {
      atomicMin(&round.first_image, static_cast<int>(r.image));
      atomicMax(&round.last_image, static_cast<int>(r.image));
      atomicOr(&round.levels, 1u << r.level);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) rounds[blockIdx.x] = round;
}

// kTile x kTile cells of the map of one image at one level. Tiles are numbered over all levels.
struct Tile {
  int level;
  int64_t image;
  int top;
  int left;
};

__host__ __device__ inline int64_t tiles_along(int64_t cells) { return (cells + kTile - 1) / kTile; }

__device__ inline Tile tile_of(const Family& f, int64_t number) {
  int l = 0;
  for (;; ++l) {
    const int64_t tiles = f.images * tiles_along(f.level[l].height) * tiles_along(f.level[l].width);
    if (number < tiles) break;
    number -= tiles;
  }
  const int64_t across = tiles_along(f.level[l].width);
  const int64_t down = tiles_along(f.level[l].height);
  return {l, number / (across * down), static_cast<int>(number / across % down) * kTile,
          static_cast<int>(number % across) * kTile};
}

template <typename G>
__device__ inline bool reaches(const Footprint<G>& p, const Tile& tile) {
  return p.region.valid && p.region.level == tile.level && p.region.image == tile.image &&
         p.rows.first < tile.top + kTile && p.rows.last >= tile.top && p.columns.first < tile.left + kTile &&
         p.columns.last >= tile.left;
}

// Lists the regions among base .. base + kThreads - 1 that reach the tile, in order. Returns their number to all threads.
template <typename G>
__device__ inline int list_regions(const Family& f, const Footprint<G>* footprints, const Tile& tile, int64_t base, int* list) {
  constexpr int kWarps = kThreads / 32;
  __shared__ int before[kWarps + 1];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t k = base + threadIdx.x;
  const bool hit = k < f.regions && reaches(footprints[k], tile);
  const unsigned hits = __ballot_sync(0xffffffffu, hit);
  if (lane == 0) before[warp + 1] = __popc(hits);
  __syncthreads();
  if (threadIdx.x == 0) {
    before[0] = 0;
    for (int w = 0; w < kWarps; ++w) before[w + 1] += before[w];
  }
  __syncthreads();
  if (hit) list[before[warp] + __popc(hits & ((1u << lane) - 1))] = static_cast<int>(k - base);
  const int total = before[kWarps];
  __syncthreads();
  return total;
}

// Weights of the bins of some regions in the cells of a tile, [regions][bins of y, bins of x][kTile], and the range of bins
// with any weight: first and last + 1 of each axis.
template <typename G>
struct Shares {
  G* weight;
  int* range;  // [regions][4]
  int bins_y;
  int bins_x;

  __device__ const G* rows(int i, int p) const { return weight + (static_cast<int64_t>(i) * (bins_y + bins_x) + p) * kTile; }
  __device__ const G* columns(int i, int q) const { return rows(i, bins_y + q); }

  __device__ void build(const Family& f, const Footprint<G>* footprints, const int* list, int count, const Tile& tile) {
    for (int i = threadIdx.x; i < 4 * count; i += kThreads) range[i] = i % 2 ? 0 : bins_y + bins_x;
    __syncthreads();
    for (int index = threadIdx.x; index < count * (bins_y + bins_x); index += kThreads) {
      const int i = index / (bins_y + bins_x);
      const int b = index % (bins_y + bins_x);
      const bool vertical = b < bins_y;
      const Region<G>& r = footprints[list[i]].region;
      const int bin = vertical ? b : b - bins_y;
      if (!build_bin(vertical ? r.y : r.x, bin, vertical ? tile.top : tile.left, f.switches, weight + static_cast<int64_t>(index) * kTile))
        continue;
      atomicMin(range + 4 * i + (vertical ? 0 : 2), bin);
      atomicMax(range + 4 * i + (vertical ? 1 : 3), bin + 1);
    }
    __syncthreads();
  }

 private:
  __device__ static bool build_bin(const Axis<G>& axis, int bin, int begin, const Switches& s, G* share) {
    bool any = false;
    for (int t = 0; t < kTile; ++t) share[t] = G(0);
    taps_of_bin(axis, bin, s, [&](int64_t cell, G w) {
      const int64_t t = cell - begin;
      if (t < 0 || t >= kTile) return;
      share[t] += w;
      any = true;
    });
    return any;
  }
};

// Adds the gradient of bin (p, q) of a region to a row of the tile; the operator is a mean.
template <typename T, typename G, int V>
__device__ inline void add_mean(const T* grad, G by_row, const G* by_column, G (&sums)[kTile][V]) {
  const Vector<T, V> parts = load<T, V>(grad);
  MASKRCNN_UNROLL
  for (int t = 0; t < kTile; ++t) {
    const G weight = by_row * by_column[t];
    if (weight == G(0)) continue;
    MASKRCNN_UNROLL
    for (int v = 0; v < V; ++v) sums[t][v] = ::fma(weight, static_cast<G>(parts.at[v]), sums[t][v]);
  }
}

// The same for maxima of cells. `number` is that of the first cell of the row in the tile.
template <typename T, typename G, int V>
__device__ inline void add_cells(int number, int cells, const T* grad, const int32_t* winner, G (&sums)[kTile][V]) {
  const Vector<T, V> parts = load<T, V>(grad);
  const Vector<int32_t, V> winners = load<int32_t, V>(winner);
  MASKRCNN_UNROLL
  for (int v = 0; v < V; ++v) {
    const int cell = winners.at[v] - number;
    if (cell < 0 || cell >= cells) continue;
    MASKRCNN_UNROLL
    for (int t = 0; t < kTile; ++t)
      if (t == cell) sums[t][v] += static_cast<G>(parts.at[v]);
  }
}

// The same for maxima of samples.
template <typename T, typename G, int V>
__device__ inline void add_samples(
    const Region<G>& r, int p, int q, const Switches& s, const Tile& tile, int y, const T* grad, const int32_t* winner,
    G (&sums)[kTile][V]) {
  const Vector<T, V> parts = load<T, V>(grad);
  const Vector<int32_t, V> winners = load<int32_t, V>(winner);
  const Span rows = points_of_bin(r.y, p, s);
  const Span columns = points_of_bin(r.x, q, s);
  const int width = static_cast<int>(columns.count);
  MASKRCNN_UNROLL
  for (int v = 0; v < V; ++v) {
    if (winners.at[v] < 0) continue;
    const Tap<G> row = tap_of_point(r.y, p, rows.first + winners.at[v] / width, s);
    const G by_row = weight_of(row, y);
    if (by_row == G(0)) continue;
    const Tap<G> column = tap_of_point(r.x, q, columns.first + winners.at[v] % width, s);
    MASKRCNN_UNROLL
    for (int t = 0; t < kTile; ++t) {
      const G weight = by_row * weight_of(column, tile.left + t);
      if (weight != G(0)) sums[t][v] = ::fma(weight, static_cast<G>(parts.at[v]), sums[t][v]);
    }
  }
}

// The output channel and the bins that read channels c .. c + V - 1 of the maps. A position-sensitive channel is read by
// one bin only, and V is 1.
struct Readers {
  int64_t channel;
  int first_p, last_p, first_q, last_q;  // the last ones are excluded
};

__device__ inline Readers readers_of(const Family& f, int64_t c) {
  if (f.inputs == f.channels) return {c, 0, static_cast<int>(f.height), 0, static_cast<int>(f.width)};
  const int64_t bins = f.height * f.width;
  const int p = static_cast<int>(c % bins / f.width);
  const int q = static_cast<int>(c % bins % f.width);
  return {c / bins, p, p + 1, q, q + 1};
}

// Grid: [tiles of all levels, parts of the channels]; threads: [kTile rows, kLanes vectors of channels]. Only the kernel for
// maxima reads `winner`. The bound on registers lets two blocks of an SM hide each other's latency.
template <typename T, typename G, int V, bool kMaximum>
__global__ void __launch_bounds__(kThreads, 2) gather_kernel(
    const __grid_constant__ Family f, const Footprint<G>* footprints, const Round* rounds, int at_once, const T* grad,
    const int32_t* winner, const __grid_constant__ Maps maps) {
  MASKRCNN_SHARED(G, memory);
  __shared__ int list[kThreads];
  __shared__ int range[4 * kThreads];
  const Tile tile = tile_of(f, blockIdx.x);
  const Level& level = f.level[tile.level];
  const int y = tile.top + static_cast<int>(threadIdx.x) / kLanes;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.x % kLanes) * V;
  const bool mine = y < level.height && c < f.inputs;
  const Readers own = readers_of(f, c);
  const int width = static_cast<int>(level.width);
  const int number = y * width + tile.left;
  const int cells = width - tile.left < kTile ? width - tile.left : kTile;
  const int64_t bins = f.height * f.width;
  Shares<G> shares{memory, range, static_cast<int>(f.height), static_cast<int>(f.width)};
  G sums[kTile][V] = {};
  for (int64_t base = 0; base < f.regions; base += kThreads) {
    if (!rounds[base / kThreads].holds(tile.image, tile.level)) continue;
    const int found = list_regions(f, footprints, tile, base, list);
    for (int done = 0; done < found; done += at_once) {
      const int count = found - done < at_once ? found - done : at_once;
      shares.build(f, footprints + base, list + done, count, tile);
      for (int i = 0; mine && i < count; ++i) {
        const int64_t k = base + list[done + i];
        const int last_p = range[4 * i + 1] < own.last_p ? range[4 * i + 1] : own.last_p;
        const int first_q = range[4 * i + 2] > own.first_q ? range[4 * i + 2] : own.first_q;
        const int last_q = range[4 * i + 3] < own.last_q ? range[4 * i + 3] : own.last_q;
        for (int p = range[4 * i] > own.first_p ? range[4 * i] : own.first_p; p < last_p; ++p) {
          const G by_row = shares.rows(i, p)[y - tile.top];
          if (by_row == G(0)) continue;
          for (int q = first_q; q < last_q; ++q) {
            const int64_t at = (k * bins + p * f.width + q) * f.channels + own.channel;
            if constexpr (!kMaximum) add_mean<T, G, V>(grad + at, by_row, shares.columns(i, q), sums);
            else if (f.switches.bin_rounding) add_cells<T, G, V>(number, cells, grad + at, winner + at, sums);
            else add_samples<T, G, V>(footprints[k].region, p, q, f.switches, tile, y, grad + at, winner + at, sums);
          }
        }
      }
      __syncthreads();
    }
  }
  if (!mine) return;
  T* row = static_cast<T*>(maps.data[tile.level]) + tile.image * level.image_stride + y * level.row_stride + c;
  MASKRCNN_UNROLL
  for (int t = 0; t < kTile; ++t)
    if (t < cells) store_sums<T, G, V>(row + (tile.left + t) * level.column_stride, sums[t]);
}

}  // namespace maskrcnn_ops
