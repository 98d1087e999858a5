// Shared by the CPU operators: the regions of a call in a cache-friendly order, and their filters.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <numeric>
#include <vector>

#include "filter.h"
#include "kernels.h"

namespace maskrcnn_ops {

inline MemoryFormat format_of(const Family& f) {
  return f.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Page faults take half of the time of a large output, so request huge pages. A refusal has no cost.
inline void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHuge - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

inline Tensor fresh_map(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, ScalarType dtype, bool channels_last) {
  Tensor map = empty_map(like, n, c, h, w, dtype, channels_last);
  prefer_huge_pages(map.mutable_data_ptr(), static_cast<size_t>(map.numel()) * map.element_size());
  return map;
}

// All regions of a call. `order` sorts them by image, level and vertical position; valid regions come first.
template <typename G>
struct Plan {
  std::vector<Region<G>> region;
  std::vector<int64_t> order;

  Plan(const Family& f, const Tensor& boxes, const Tensor& image) : region(f.regions), order(f.regions) {
    const G* box = boxes.const_data_ptr<G>();
    const int64_t* index = image.const_data_ptr<int64_t>();
    for (int64_t r = 0; r < f.regions; ++r) region[r] = region_of(f, box + 4 * r, index[r]);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [this](int64_t a, int64_t b) { return before(region[a], region[b]); });
  }

 private:
  static bool before(const Region<G>& a, const Region<G>& b) {
    if (a.valid != b.valid) return a.valid;
    if (a.image != b.image) return a.image < b.image;
    if (a.level != b.level) return a.level < b.level;
    return a.valid && a.y.start < b.y.start;
  }
};

// The filters of a region, and the taps of each of its bins.
template <typename G>
struct RegionFilters {
  Filter<G> y;
  Filter<G> x;

  void build(const Family& f, const Region<G>& region) {
    const Level& level = f.level[region.level];
    y.build(region.y, f.height, level.row_stride, f.switches);
    x.build(region.x, f.width, level.column_stride, f.switches);
  }

  BinTaps<G> taps(int64_t p, int64_t q) const {
    return {y.taps(p), y.offset.data() + y.begin[p], y.weight.data() + y.begin[p],
            x.taps(q), x.offset.data() + x.begin[q], x.weight.data() + x.begin[q]};
  }
};

// The filters of a region for contiguous planes, in the form of kernels.h.
template <typename G>
struct PlaneFilters {
  PlaneTaps<G> taps{};
  int64_t start = 0;  // first column of the window
  std::vector<int64_t> row;
  std::vector<int64_t> line;  // one cell in every cache line of the window
  std::vector<G> by_column;
  std::vector<int64_t> column_begin;
  std::vector<int64_t> column_end;
  std::vector<G> by_bin;

  // Returns false if no window of whole vectors fits into a row of the map.
  bool build(const RegionFilters<G>& filters, int64_t bins_y, int64_t bins_x, int64_t map_width, int64_t lanes) {
    const int64_t used = filters.x.last - filters.x.first;
    if (used <= 0 || filters.y.cell.empty()) return false;
    taps.width = (used + lanes - 1) / lanes * lanes;
    if (taps.width > map_width) return false;
    start = std::min(filters.x.first, map_width - taps.width);
    taps.row_bins = bins_y;
    taps.bins = bins_x;
    taps.padded_bins = (bins_x + lanes - 1) / lanes * lanes;
    fill(filters, map_width, lanes);
    return true;
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(G);

  void fill(const RegionFilters<G>& filters, int64_t map_width, int64_t lanes) {
    by_column.assign(taps.width * taps.padded_bins, G(0));
    by_bin.assign(taps.bins * taps.width, G(0));
    column_begin.assign(taps.padded_bins / lanes, taps.width);
    column_end.assign(taps.padded_bins / lanes, 0);
    for (int64_t q = 0; q < taps.bins; ++q) {
      for (int64_t k = filters.x.begin[q]; k < filters.x.begin[q + 1]; ++k) {
        const int64_t x = filters.x.cell[k] - start;
        by_column[x * taps.padded_bins + q] += filters.x.weight[k];
        by_bin[q * taps.width + x] += filters.x.weight[k];
        column_begin[q / lanes] = std::min(column_begin[q / lanes], x);
        column_end[q / lanes] = std::max(column_end[q / lanes], x + 1);
      }
    }
    row.resize(filters.y.cell.size());
    for (size_t k = 0; k < row.size(); ++k) row[k] = filters.y.cell[k] * map_width + start;
    line.clear();
    for (int64_t y = filters.y.first; y < filters.y.last; ++y) {
      const int64_t at = y * map_width + start;
      for (int64_t x = 0; x < taps.width; x += kLine) line.push_back(at + x);
      line.push_back(at + taps.width - 1);
    }
    taps.row_begin = filters.y.begin.data();
    taps.row = row.data();
    taps.row_weight = filters.y.weight.data();
    taps.by_column = by_column.data();
    taps.by_bin = by_bin.data();
    taps.column_begin = column_begin.data();
    taps.column_end = column_end.data();
  }
};

inline Level output_strides(const Family& f) { return strides_of(f.channels, f.height, f.width, 1, f.channels_last); }

// Contiguous planes are processed in blocks of a few channels, whose planes stay in the cache, and a few regions, whose
// filters are built once for all channels.
constexpr int64_t kPlanesAtOnce = 8;
constexpr int64_t kRegionsAtOnce = 64;

// The filters of `kRegionsAtOnce` regions.
template <typename G>
struct Batch {
  struct Item {
    int64_t r;
    bool dense;
    RegionFilters<G> filters;
    PlaneFilters<G> planes;
  };
  std::vector<Item> item;
  int64_t number = -1;

  // Builds batch `which`: regions which * kRegionsAtOnce and following, in the order of the plan.
  void build(const Family& f, const Plan<G>& plan, int64_t which, int64_t lanes) {
    if (which == number) return;
    number = which;
    const int64_t begin = which * kRegionsAtOnce;
    item.resize(std::min(kRegionsAtOnce, f.regions - begin));
    for (size_t i = 0; i < item.size(); ++i) {
      item[i].r = plan.order[begin + static_cast<int64_t>(i)];
      const Region<G>& region = plan.region[item[i].r];
      if (!region.valid) continue;
      item[i].filters.build(f, region);
      item[i].dense = item[i].planes.build(item[i].filters, f.height, f.width, f.level[region.level].width, lanes);
    }
  }
};

inline int64_t batches_of(const Family& f) { return (f.regions + kRegionsAtOnce - 1) / kRegionsAtOnce; }

}  // namespace maskrcnn_ops
