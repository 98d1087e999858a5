// The inner loops of the CPU operators: over the channels of one bin, or over one contiguous plane. They are compiled for
// several instruction sets; the best one is chosen at the first call. No coordinate is computed here.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace maskrcnn_ops {

// Cells of one bin, rows x columns, as offsets into the map, and their weights.
template <typename G>
struct BinTaps {
  int64_t rows;
  const int64_t* row;
  const G* row_weight;
  int64_t columns;
  const int64_t* column;
  const G* column_weight;
};

// The filters of one region for a plane whose columns are contiguous. The window of `width` columns, a multiple of the
// vector width, holds all columns read. `by_column` [width, padded bins] and `by_bin` [bins, width] are the column filter
// as dense matrices.
template <typename G>
struct PlaneTaps {
  int64_t row_bins;
  const int64_t* row_begin;  // [row_bins + 1]
  const int64_t* row;        // offsets of the first cells of the window
  const G* row_weight;
  int64_t bins;
  int64_t padded_bins;
  int64_t width;
  const G* by_column;
  const int64_t* column_begin;  // [padded bins / lanes]: columns that a vector of bins reads
  const int64_t* column_end;
  const G* by_bin;
};

// T is the type of the features, G is the type of the geometry and the sums.
template <typename T, typename G>
struct Kernels {
  int64_t width;  // lanes of a vector of G
  // out[c * out_step] = sum of weight * map[offset + c * map_step]
  void (*gather)(const T* map, int64_t map_step, const BinTaps<G>& taps, T* out, int64_t out_step, int64_t channels);
  // map[offset + c * map_step] += weight * grad[c * grad_step]
  void (*scatter)(G* map, int64_t map_step, const BinTaps<G>& taps, const T* grad, int64_t grad_step, int64_t channels);
  // Largest cell. The winner is `number` + row * row_step + column. NaN wins.
  void (*cell_maximum)(const T* map, const BinTaps<G>& taps, int32_t number, int32_t row_step, T* out, int32_t* winner,
                       int64_t channels);
  // The adjoint: the winning cell gets the gradient.
  void (*cell_scatter)(G* map, const BinTaps<G>& taps, int32_t number, int32_t row_step, const T* grad,
                       const int32_t* winner, int64_t channels);
  // Largest point, with four reads each. The winner is its index. With `outside`, the result is at least 0; if 0 wins, the
  // winner is -1.
  void (*point_maximum)(const T* map, int64_t points, const int64_t* offset, const G* weight, bool outside, T* out,
                        int32_t* winner, int64_t channels);
  // out [row_bins, bins] of one plane. Returns false if a value is not finite; out must then be computed differently.
  // scratch: row_bins * width values
  bool (*plane_gather)(const T* plane, const PlaneTaps<G>& taps, G* scratch, T* out);
  // The adjoint. Returns false, and does nothing, if a gradient is not finite.
  bool (*plane_scatter)(G* plane, const PlaneTaps<G>& taps, const T* grad);
};

// The fastest loops that this processor supports.
template <typename T, typename G>
const Kernels<T, G>& kernels();

}  // namespace maskrcnn_ops
