// A region and its points for one CUDA thread. Uses the arithmetic of geometry.h.
#pragma once

#include "cuda_runtime.cuh"

namespace maskrcnn_ops {

// Data of the maps of all levels. Pass it as a __grid_constant__: the compiler does not know that addresses in a local copy
// are in global memory, and compiles atomics to compare-and-swap loops.
struct Maps {
  void* data[kMaxLevels];
};

template <typename G>
struct Region {
  bool valid;  // if false, the output and all gradients are 0
  int64_t image;
  int level;
  Axis<G> y;
  Axis<G> x;
};

template <typename G>
__device__ inline Region<G> region_of(const Family& f, const G* box, int64_t image) {
  CUDA_KERNEL_ASSERT(image >= -1 && image < f.images);
  Region<G> r{};
  r.valid = image >= 0 && is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
  if (!r.valid) return r;
  r.image = image;
  const double area = static_cast<double>((box[2] - box[0]) * (box[3] - box[1]));
  r.level = choose_level(area, f.octaves, f.levels, f.switches);
  const Level& level = f.level[r.level];
  const G scale = static_cast<G>(level.scale);
  r.y = make_axis(box[1], box[3], scale, f.height, level.height, f.switches);
  r.x = make_axis(box[0], box[2], scale, f.width, level.width, f.switches);
  return r;
}

// The interpolated value at one point of one channel.
template <typename T, typename G>
__device__ inline G value_at(const T* map, const Level& level, const Tap<G>& y, const Tap<G>& x) {
  const T* low = map + y.low * level.row_stride;
  const T* high = map + y.high * level.row_stride;
  const int64_t left = x.low * level.column_stride;
  const int64_t right = x.high * level.column_stride;
  return y.weight_low * (x.weight_low * static_cast<G>(low[left]) + x.weight_high * static_cast<G>(low[right])) +
         y.weight_high * (x.weight_low * static_cast<G>(high[left]) + x.weight_high * static_cast<G>(high[right]));
}

// Weight of one cell of the axis in a tap.
template <typename G>
__device__ inline G weight_of(const Tap<G>& tap, int64_t cell) {
  return (tap.low == cell ? tap.weight_low : G(0)) + (tap.high == cell && tap.high != tap.low ? tap.weight_high : G(0));
}

// Taps of the winning point of a maximum; see reads_of_winner in region.h.
template <typename G>
__device__ inline void taps_of_winner(
    const Region<G>& r, int64_t p, int64_t q, int32_t winner, const Level& level, const Switches& s, Tap<G>* y, Tap<G>* x) {
  if (s.bin_rounding) {
    const int width = static_cast<int>(level.width);  // 64-bit divisions are several times slower
    *y = {winner / width, winner / width, G(1), G(0)};
    *x = {winner % width, winner % width, G(1), G(0)};
    return;
  }
  const Span rows = points_of_bin(r.y, p, s);
  const Span columns = points_of_bin(r.x, q, s);
  const int width = static_cast<int>(columns.count);
  *y = tap_of_point(r.y, p, rows.first + winner / width, s);
  *x = tap_of_point(r.x, q, columns.first + winner % width, s);
}

// The cells that a bin reads along one axis, each listed once. Kept in shared memory for all channels of a region.
template <typename G>
struct TapList {
  static constexpr int kRoom = 12;
  int count;  // negative if the bin reads more than kRoom cells
  int cell[kRoom];
  G weight[kRoom];

  __device__ void build(const Axis<G>& axis, int64_t p, const Switches& s) {
    count = 0;
    taps_of_bin(axis, p, s, [this](int64_t c, G w) { add(static_cast<int>(c), w); });
  }

 private:
  // Coordinates are monotonic, so a cell that is already listed is one of the last two.
  __device__ void add(int c, G w) {
    if (count < 0) return;
    for (int back = 1; back <= 2 && back <= count; ++back) {
      if (cell[count - back] == c) {
        weight[count - back] += w;
        return;
      }
    }
    if (count == kRoom) {
      count = -1;
      return;
    }
    cell[count] = c;
    weight[count++] = w;
  }
};

// Cells first .. last include all that a region reads along one axis.
struct Reach {
  int first;
  int last;
};

// Points lie within one cell of [start, start + bins * bin]. Points beyond the map are clamped to its outermost cells.
template <typename G>
__device__ inline Reach reach_of(const Axis<G>& axis, int64_t bins) {
  const G end = axis.start + static_cast<G>(bins) * axis.bin;
  const int last = static_cast<int>(axis.size) - 1;
  if (!is_finite(end)) return {0, last};
  const G low = axis.start < end ? axis.start : end;
  const G high = axis.start < end ? end : axis.start;
  const int from = static_cast<int>(clip_to_map(low - G(2), axis.size));
  const int to = static_cast<int>(clip_to_map(high + G(2), axis.size));
  return {from < last ? from : last, to < last ? to : last};
}

}  // namespace maskrcnn_ops
