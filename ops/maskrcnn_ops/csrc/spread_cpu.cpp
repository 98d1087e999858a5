// roi_spread on the CPU: the adjoint of roi_sample. Every thread owns channels, or rows of channels-last maps, so that no
// two threads add to the same cell. The sum of a cell has the same order and operations with any number of threads.
#include <torch/csrc/stable/library.h>

#include "plan.h"

namespace maskrcnn_ops {
namespace {

// Winners are scattered over a region, so few planes are processed at once to keep its cells in the cache.
constexpr int64_t kWinnerPlanesAtOnce = 32;
constexpr int64_t kFewCells = 4;
constexpr int64_t kLine = 64;  // bytes

// The rows of all maps, by image and level, and the number of additions to them.
template <typename G>
struct Rows {
  std::vector<int64_t> base;     // [levels], of the first image
  int64_t of_image = 0;
  std::vector<int64_t> before;   // [rows + 1]: additions to the rows before

  Rows(const Family& f, const Plan<G>& plan) {
    for (int l = 0; l < f.levels; ++l) {
      base.push_back(of_image);
      of_image += f.level[l].height;
    }
    before.assign(f.images * of_image + 1, 0);
    RegionFilters<G> filters;
    for (const Region<G>& region : plan.region) {
      if (!region.valid) continue;
      filters.build(f, region);
      for (const int64_t y : filters.y.cell) before[first_of(region) + y + 1] += static_cast<int64_t>(filters.x.cell.size());
    }
    std::partial_sum(before.begin(), before.end(), before.begin());
  }

  int64_t first_of(const Region<G>& region) const { return region.image * of_image + base[region.level]; }

  // The row before which part / parts of the work lies.
  int64_t cut(int64_t part, int64_t parts) const {
    if (part == parts) return static_cast<int64_t>(before.size()) - 1;
    return std::lower_bound(before.begin(), before.end(), before.back() * part / parts) - before.begin();
  }
};

template <typename T, typename G>
struct Spreader {
  const Family& f;
  const T* grad;
  const Plan<G>& plan;
  const int32_t* winner;  // null for the mean
  std::vector<Tensor>& maps;
  Level output = output_strides(f);
  const Kernels<T, G>& loops = kernels<T, G>();
  int64_t ahead = 0;  // distance from the gradient of this region to that of the next, in elements

  RegionFilters<G> filters{};
  Batch<G> batch{};
  Points<G> y{};
  Points<G> x{};

  G* map_of(const Region<G>& region) const {
    return maps[region.level].template mutable_data_ptr<G>() + region.image * f.level[region.level].image_stride;
  }

  void spread(int64_t r, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[r];
    if (!region.valid) return;
    const T* from = grad + r * output.image_stride;
    if (winner) return spread_winners(region, r, first, last);
    filters.build(f, region);
    spread_channels(region, filters, from, first, last);
  }

  // Spreads region r, restricted to rows low .. high - 1 of its map.
  void spread_rows(int64_t r, int64_t low, int64_t high) {
    const Region<G>& region = plan.region[r];
    if (!region.valid || high <= 0 || low >= f.level[region.level].height) return;
    filters.build(f, region);
    filters.y.keep(low, high);
    spread_channels(region, filters, grad + r * output.image_stride, 0, f.channels);
  }

  // Spreads a batch of regions on contiguous planes first .. last - 1, a few planes at a time.
  void spread_batch(int64_t which, int64_t first, int64_t last) {
    batch.build(f, plan, which, loops.width);
    for (int64_t c = first; c < last; c += kPlanesAtOnce)
      for (const auto& item : batch.item)
        if (plan.region[item.r].valid) spread_item(item, c, std::min(c + kPlanesAtOnce, last));
  }

  void spread_item(const typename Batch<G>::Item& item, int64_t first, int64_t last) {
    if (!f.switches.position_sensitive) return spread_planes(item, first, last);
    spread_channels(plan.region[item.r], item.filters, grad + item.r * output.image_stride, first, last);
  }

  // Spreads all bins of channels first .. last - 1. `from` is the gradient of the region.
  void spread_channels(const Region<G>& region, const RegionFilters<G>& to, const T* from, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    G* map = map_of(region) + first * level.channel_stride;
    from += first * output.channel_stride;
    for (int64_t p = 0; p < f.height; ++p) {
      if (to.y.taps(p) == 0) continue;
      for (int64_t q = 0; q < f.width; ++q)
        loops.scatter(map + (p * f.width + q) * level.bin_stride, level.channel_stride, to.taps(p, q),
                      from + p * output.row_stride + q * output.column_stride, output.channel_stride, last - first);
    }
  }

  void spread_planes(const typename Batch<G>::Item& item, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[item.r];
    const Level& level = f.level[region.level];
    const T* from = grad + item.r * output.image_stride;
    for (int64_t c = first; c < last; ++c) {
      G* plane = map_of(region) + c * level.channel_stride;
      const T* plane_grad = from + c * output.channel_stride;
      if (item.dense && loops.plane_scatter(plane, item.planes.taps, plane_grad)) continue;
      spread_channels(region, item.filters, from, c, c + 1);
    }
  }

  void spread_winners(const Region<G>& region, int64_t r, int64_t first, int64_t last) {
    if (f.switches.bin_rounding) return spread_cells(region, r, first, last);
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    for (int64_t p = 0; p < f.height; ++p) {
      for (int64_t q = 0; q < f.width; ++q) {
        const int64_t at = r * output.image_stride + p * output.row_stride + q * output.column_stride;
        spread_points(region, p, q, at, first, last);
      }
    }
  }

  // Loops in memory order: bins outside and channels inside, or vice versa.
  void spread_cells(const Region<G>& region, int64_t r, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    const int64_t bins = f.height * f.width;
    const int64_t start = r * output.image_stride;
    G* map = map_of(region);
    if (!f.channels_last) {
      int64_t c = first;
      for (; c + 2 <= last; c += 2) add_two_planes(map + c * level.channel_stride, level.channel_stride, start + c * bins, bins);
      if (c < last) add_cells(map + c * level.channel_stride, start + c * bins, bins, 1, 0);
      return;
    }
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    for (int64_t p = 0; p < f.height; ++p) {
      for (int64_t q = 0; q < f.width; ++q) {
        const int64_t at = start + (p * f.width + q) * f.channels + first;
        const int64_t cells = y.span[p].count * x.span[q].count;
        if (cells == 0) continue;
        if (cells <= kFewCells) add_few_cells(map + first, level, y.span[p], x.span[q], at, last - first);
        else add_cells(map + first, at, last - first, level.column_stride, 1);
      }
    }
  }

  // Alternates between two planes: neighbouring bins often share a cell, and each addition to it depends on the one before.
  // Prefetches the next region, which the hardware prefetcher does not predict.
  void add_two_planes(G* plane, int64_t stride, int64_t at, int64_t bins) {
    const int32_t* cell = winner + at;
    const T* from = grad + at;
    for (int64_t i = 0; i < 2 * bins; i += kLine / sizeof(int32_t)) __builtin_prefetch(cell + ahead + i);
    for (int64_t i = 0; i < 2 * bins; i += kLine / sizeof(T)) __builtin_prefetch(from + ahead + i);
    for (int64_t i = 0; i < bins; ++i) {
      if (cell[i] >= 0) plane[cell[i]] += static_cast<G>(from[i]);
      if (cell[bins + i] >= 0) plane[stride + cell[bins + i]] += static_cast<G>(from[bins + i]);
    }
  }

  void add_cells(G* to, int64_t at, int64_t count, int64_t cell_stride, int64_t step) {
    const int32_t* cell = winner + at;
    const T* from = grad + at;
    for (int64_t i = 0; i < count; ++i, to += step)
      if (cell[i] >= 0) to[cell[i] * cell_stride] += static_cast<G>(from[i]);
  }

  // For few cells, adding vectors of channels to all of them is faster than adding each channel to its winner.
  void add_few_cells(G* to, const Level& level, const Span& rows, const Span& columns, int64_t at, int64_t count) {
    int64_t row[kFewCells], column[kFewCells];
    for (int64_t i = 0; i < rows.count; ++i) row[i] = (rows.first + i) * level.row_stride;
    for (int64_t j = 0; j < columns.count; ++j) column[j] = (columns.first + j) * level.column_stride;
    const BinTaps<G> taps{rows.count, row, nullptr, columns.count, column, nullptr};
    const auto number = static_cast<int32_t>(rows.first * level.width + columns.first);
    loops.cell_scatter(to, taps, number, static_cast<int32_t>(level.width), grad + at, winner + at, count);
  }

  void spread_points(const Region<G>& region, int64_t p, int64_t q, int64_t at, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    for (int64_t c = first; c < last; ++c) {
      const int64_t place = at + c * output.channel_stride;
      if (winner[place] < 0) continue;
      const Reads<G> read = reads_of_winner(y, x, p, q, winner[place], level, f.switches);
      G* map = map_of(region) + c * level.channel_stride;
      for (int k = 0; k < 4; ++k)
        if (read.weight[k] != G(0)) map[read.offset[k]] += read.weight[k] * static_cast<G>(grad[place]);
    }
  }
};

template <typename T, typename G>
void spread_regions(const Family& f, const T* grad, const Plan<G>& plan, const int32_t* winner, std::vector<Tensor>& maps) {
  const int64_t threads = torch::stable::get_num_threads();
  if (f.channels_last && !winner && threads > 1) {
    const Rows<G> rows(f, plan);
    torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      Spreader<T, G> spreader{f, grad, plan, winner, maps};
      const int64_t low = rows.cut(begin, threads), high = rows.cut(end, threads);
      for (const int64_t r : plan.order) {
        const int64_t base = plan.region[r].valid ? rows.first_of(plan.region[r]) : 0;
        spreader.spread_rows(r, low - base, high - base);
      }
    });
    return;
  }
  const int64_t block = kPlanesAtOnce;
  const int64_t blocks = (f.channels + block - 1) / block;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    Spreader<T, G> spreader{f, grad, plan, winner, maps};
    const int64_t start = begin * block, stop = std::min(end * block, f.channels);
    if (!f.channels_last && !winner) {
      for (int64_t which = 0; which < batches_of(f); ++which) spreader.spread_batch(which, start, stop);
      return;
    }
    const int64_t step = f.channels_last ? stop - start : kWinnerPlanesAtOnce;
    for (int64_t first = start; first < stop; first += step)
      for (size_t i = 0; i < plan.order.size(); ++i) {
        const int64_t r = plan.order[i], next = plan.order[std::min(i + 1, plan.order.size() - 1)];
        spreader.ahead = (next - r) * spreader.output.image_stride;
        spreader.spread(r, first, std::min(first + step, stop));
      }
  });
}

std::vector<Tensor> roi_spread(Tensor grad, Tensor boxes, Tensor image, std::optional<Tensor> winner,
                               std::vector<int64_t> shape, std::vector<double> scales, std::vector<double> switches,
                               bool channels_last, bool /*atomic*/) {
  const ScalarType dtype = grad.scalar_type();
  check_boxes(boxes, grad);
  const Family f = family_of(boxes, image, shape, grad.size(2), grad.size(3), scales, switches, channels_last);
  STD_TORCH_CHECK(grad.size(0) == f.regions && grad.size(1) == f.channels, "gradient: expected [R, C, P, P]");
  grad = torch::stable::contiguous(grad, format_of(f));
  if (winner) winner = settle_winner(*winner, boxes, f);
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  const ScalarType sums = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  std::vector<Tensor> maps;
  for (int l = 0; l < f.levels; ++l) {
    maps.push_back(fresh_map(boxes, f.images, f.inputs, f.level[l].height, f.level[l].width, sums, channels_last));
    torch::stable::zero_(maps.back());
  }
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    spread_regions<T, G>(f, grad.const_data_ptr<T>(), Plan<G>(f, boxes, image), frozen, maps);
  });
  if (dtype != sums) {
    for (Tensor& map : maps) map = torch::stable::to(map, dtype);
  }
  return maps;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("roi_spread", TORCH_BOX(&roi_spread)); }

}  // namespace
}  // namespace maskrcnn_ops
