// The mean over the points of a bin as one filter along each axis. The mean is separable: a bin of n x n samples is the
// outer product of two short lists of cells and weights. They are built once for a region and shared by all channels.
#pragma once

#include <algorithm>
#include <vector>

#include "region.h"

namespace maskrcnn_ops {

template <typename G>
struct Filter {
  std::vector<int64_t> begin;   // [bins + 1], indices into the other lists
  std::vector<int64_t> cell;
  std::vector<int64_t> offset;  // cell * stride
  std::vector<G> weight;        // includes the divisor of the mean
  int64_t first;                // cells first .. last - 1 include all cells read
  int64_t last;

  void build(const Axis<G>& axis, int64_t bins, int64_t stride, const Switches& s) {
    begin.assign(1, 0);
    cell.clear();
    weight.clear();
    first = axis.size;
    last = 0;
    for (int64_t p = 0; p < bins; ++p) {
      taps_of_bin(axis, p, s, [this](int64_t c, G w) { add(c, w); });
      begin.push_back(static_cast<int64_t>(cell.size()));
    }
    offset.resize(cell.size());
    for (size_t k = 0; k < cell.size(); ++k) {
      offset[k] = cell[k] * stride;
      first = std::min(first, cell[k]);
      last = std::max(last, cell[k] + 1);
    }
  }

  // Removes all cells except low .. high - 1.
  void keep(int64_t low, int64_t high) {
    if (low <= first && last <= high) return;
    size_t kept = 0;
    size_t k = 0;
    for (size_t p = 0; p + 1 < begin.size(); ++p) {
      for (; k < static_cast<size_t>(begin[p + 1]); ++k) {
        if (cell[k] < low || cell[k] >= high) continue;
        cell[kept] = cell[k];
        offset[kept] = offset[k];
        weight[kept] = weight[k];
        ++kept;
      }
      begin[p + 1] = static_cast<int64_t>(kept);
    }
  }

  int64_t taps(int64_t p) const { return begin[p + 1] - begin[p]; }

 private:
  // Coordinates are monotonic, so a cell that is already listed for this bin is one of the last two.
  void add(int64_t c, G w) {
    const size_t open = static_cast<size_t>(begin.back());
    for (size_t back = 1; back <= 2 && cell.size() >= open + back; ++back) {
      if (cell[cell.size() - back] == c) {
        weight[cell.size() - back] += w;
        return;
      }
    }
    cell.push_back(c);
    weight.push_back(w);
  }
};

}  // namespace maskrcnn_ops
