// Positions of the points of a region. All CPU and CUDA kernels, forward and backward, use this code. A region is divided
// into bins, a bin has points along each axis, and a point reads one or two cells of each axis.
//
// Along one axis, with s = 1 / stride, a box from x1 to x2 pixels and P bins:
//   start = [round](x1 s) - offset,  width = max([round](x2 s) - offset - start + [1], min_width),  bin = width / P
// The points of bin p are either n samples, at start + p bin + (i + shift) bin / divisor, or, with bin rounding, the
// cells floor(start + p bin) .. ceil(start + (p + 1) bin) - 1.
//
// Compile without FMA contraction: fused products move samples by up to 3e-5 cells.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace maskrcnn_ops {

enum class Position { centre = 0, corner = 1, thirds = 2 };
enum class Border { align = 0, mnc = 1, inner = 2 };
enum class Rounding { none = 0, cells = 1, pixels = 2 };

constexpr int kMaxLevels = 8;
// Largest number of samples of an adaptive bin; float32 can still separate so many.
constexpr double kMaxSamples = 1 << 20;

struct Switches {
  Rounding rounding;
  bool plus_one;
  double offset;  // cells
  double min_width;  // cells; negative: no minimum
  bool bin_rounding;
  int sampling_ratio;  // samples per bin along an axis; <= 0: adaptive
  Position position;
  Border border;
  bool position_sensitive;
  double canonical_size;   // pixels
  double canonical_level;  // the level, log2(stride), of a box of that size
};

// One region along one axis, in cells of its level. G is the type of the geometry, float or double.
template <typename G>
struct Axis {
  G start;
  G bin;
  int64_t size;     // cells of the map
  int64_t samples;  // per bin, including those outside the map
};

// Points of one bin: first .. first + count - 1. They are cells with bin rounding, else samples inside the map.
struct Span {
  int64_t first;
  int64_t count;
};

// The two cells that a point reads, and their weights.
template <typename G>
struct Tap {
  int64_t low;
  int64_t high;
  G weight_low;
  G weight_high;
};

template <typename G>
C10_HOST_DEVICE inline bool is_finite(G x) {
  return x - x == G(0);
}

// Clamps x to [0, size] and truncates it. NaN becomes 0.
template <typename G>
C10_HOST_DEVICE inline int64_t clip_to_map(G x, int64_t size) {
  if (!(x > G(0))) return 0;
  return x >= static_cast<G>(size) ? size : static_cast<int64_t>(x);
}

template <typename G>
C10_HOST_DEVICE inline int64_t samples_per_bin(G bin, int sampling_ratio) {
  if (sampling_ratio > 0) return sampling_ratio;
  const G count = ::ceil(bin);
  if (!(count > G(0))) return 0;
  return count < G(kMaxSamples) ? static_cast<int64_t>(count) : static_cast<int64_t>(kMaxSamples);
}

template <typename G>
C10_HOST_DEVICE inline Axis<G> make_axis(G low, G high, G scale, int64_t bins, int64_t size, const Switches& s) {
  G one = s.plus_one ? G(1) : G(0);
  if (s.rounding == Rounding::pixels) {  // as in the released R-FCN
    low = ::round(low);
    high = ::round(high) + one;
    one = G(0);
  }
  G start = low * scale;
  G end = high * scale;
  if (s.rounding == Rounding::cells) {
    start = ::round(start);  // half away from zero, as in the released RoIPool
    end = ::round(end);
  }
  start -= static_cast<G>(s.offset);
  end -= static_cast<G>(s.offset);
  G width = end - start + one;
  const G least = static_cast<G>(s.min_width);
  if (s.min_width >= 0 && !(width >= least)) width = least;
  Axis<G> axis;
  axis.start = start;
  axis.bin = width / static_cast<G>(bins);
  axis.size = size;
  axis.samples = samples_per_bin(axis.bin, s.sampling_ratio);
  return axis;
}

// Coordinate of sample i of bin p in cells; the centre of cell c has coordinate c.
template <typename G>
C10_HOST_DEVICE inline G sample_at(const Axis<G>& axis, int64_t p, int64_t i, Position position) {
  const G offset = position == Position::centre ? G(0.5) : position == Position::corner ? G(0) : G(1);
  const G divisor = static_cast<G>(position == Position::thirds ? axis.samples + 1 : axis.samples);
  return axis.start + static_cast<G>(p) * axis.bin + (static_cast<G>(i) + offset) * axis.bin / divisor;
}

// Whether a sample lies inside the map. False for NaN.
template <typename G>
C10_HOST_DEVICE inline bool inside(G x, int64_t size, Border border) {
  const G margin = border == Border::align ? G(1) : border == Border::mnc ? G(0.5) : G(0);
  const G last = static_cast<G>(size) - (G(1) - margin);
  return x >= -margin && x <= last && size > 0;
}

// Cells of bin p. If the start is a whole cell, the bin is rounded before the start is added, as in the released RoIPool.
template <typename G>
C10_HOST_DEVICE inline Span cells_of_bin(const Axis<G>& axis, int64_t p, const Switches& s) {
  G low = static_cast<G>(p) * axis.bin;
  G high = static_cast<G>(p + 1) * axis.bin;
  if (s.rounding == Rounding::cells && s.offset == 0) {
    low = ::floor(low) + axis.start;
    high = ::ceil(high) + axis.start;
  } else {
    low = ::floor(axis.start + low);
    high = ::ceil(axis.start + high);
  }
  const int64_t size = s.border == Border::inner && axis.size > 0 ? axis.size - 1 : axis.size;
  const int64_t first = clip_to_map(low, size);
  const int64_t last = clip_to_map(high, size);
  return {first, last > first ? last - first : 0};
}

// Samples of bin p inside the map. They are consecutive, since coordinates are monotonic in the index. An adaptive bin
// may have very many samples, so only those near the map are examined: the work is bounded by the map.
template <typename G>
C10_HOST_DEVICE inline Span samples_inside(const Axis<G>& axis, int64_t p, const Switches& s) {
  int64_t begin = 0;
  int64_t end = axis.samples;
  if (s.sampling_ratio <= 0 && axis.samples > 4) {
    const G origin = sample_at(axis, p, 0, s.position);
    const G step = axis.bin / static_cast<G>(axis.samples);
    begin = clip_to_map((G(-1) - origin) / step - G(2), axis.samples);
    end = clip_to_map((static_cast<G>(axis.size) - origin) / step + G(4), axis.samples);
  }
  while (begin < end && !inside(sample_at(axis, p, begin, s.position), axis.size, s.border)) ++begin;
  while (begin < end && !inside(sample_at(axis, p, end - 1, s.position), axis.size, s.border)) --end;
  return {begin, end > begin ? end - begin : 0};
}

template <typename G>
C10_HOST_DEVICE inline Span points_of_bin(const Axis<G>& axis, int64_t p, const Switches& s) {
  return s.bin_rounding ? cells_of_bin(axis, p, s) : samples_inside(axis, p, s);
}

// Divisor of the mean over a bin.
template <typename G>
C10_HOST_DEVICE inline int64_t divisor_of_bin(const Axis<G>& axis, const Span& span, const Switches& s) {
  const int64_t count = s.bin_rounding ? span.count : axis.samples;
  return count > 0 ? count : 1;
}

// Whether the bin has samples outside the map. They count as zeros in a maximum.
template <typename G>
C10_HOST_DEVICE inline bool reaches_outside(const Axis<G>& axis, const Span& span, const Switches& s) {
  return !s.bin_rounding && span.count < axis.samples;
}

// Linear interpolation at x, clamped to the first and the last cell centre.
template <typename G>
C10_HOST_DEVICE inline Tap<G> tap_at(G x, int64_t size) {
  if (!(x > G(0))) x = G(0);
  const int64_t low = static_cast<int64_t>(x);
  if (low >= size - 1) return {size - 1, size - 1, G(1), G(0)};
  const G weight = x - static_cast<G>(low);
  return {low, low + 1, G(1) - weight, weight};
}

template <typename G>
C10_HOST_DEVICE inline Tap<G> tap_of_point(const Axis<G>& axis, int64_t p, int64_t i, const Switches& s) {
  if (s.bin_rounding) return {i, i, G(1), G(0)};
  return tap_at(sample_at(axis, p, i, s.position), axis.size);
}

// Calls add(cell, weight) for every cell that bin p reads along its axis. The weights are those of the mean.
template <typename G, typename Add>
C10_HOST_DEVICE inline void taps_of_bin(const Axis<G>& axis, int64_t p, const Switches& s, Add&& add) {
  const Span span = points_of_bin(axis, p, s);
  const G share = G(1) / static_cast<G>(divisor_of_bin(axis, span, s));
  for (int64_t i = 0; i < span.count; ++i) {
    const Tap<G> tap = tap_of_point(axis, p, span.first + i, s);
    add(tap.low, tap.weight_low * share);
    if (tap.weight_high != G(0)) add(tap.high, tap.weight_high * share);
  }
}

// Index of the level for a box of this area: the coarsest level whose octave = log2(stride) is at most
// floor(canonical_level + log2(sqrt(area) / canonical_size) + 1e-6), or the finest. Levels are ordered fine to coarse.
C10_HOST_DEVICE inline int choose_level(double area, const double* octaves, int levels, const Switches& s) {
  const double level = ::floor(s.canonical_level + ::log2(::sqrt(area) / s.canonical_size) + 1e-6);
  int chosen = 0;
  for (int l = 1; l < levels; ++l) {
    if (octaves[l] <= level) chosen = l;
  }
  return chosen;
}

}  // namespace maskrcnn_ops
