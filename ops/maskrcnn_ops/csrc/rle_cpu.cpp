// Mask probabilities pasted into the image, straight to COCO's compressed run lengths (CPU).
//
// Between two rows of the mask a pasted column is linear, so it crosses the threshold at most once: only the pixels of
// such a stretch are looked at one by one, and no image is made.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vectors.h"

namespace maskrcnn_ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Where the pixels of one axis of the box lie in the mask, as torch's bilinear resampling has it: between cells `low`
// and `low + 1`, `weight` of the way.
struct PixelAxis {
  int64_t first, last;  // pixels of the image, cut to it
  std::vector<int32_t> low, high;
  std::vector<float> weight;
  float step;  // cells to a pixel

  void build(int64_t begin, int64_t end, int64_t limit, int64_t cells) {
    const int64_t size = std::max<int64_t>(end - begin + 1, 1);
    first = std::clamp<int64_t>(begin, 0, limit);
    last = std::clamp<int64_t>(end + 1, first, limit);
    step = static_cast<float>(cells) / static_cast<float>(size);
    low.resize(last - first);
    high.resize(last - first);
    weight.resize(last - first);
    // Narrow numbers, which vectors hold, unless the box begins beyond them.
    if (first - begin < std::numeric_limits<int32_t>::max() - (last - first))
      fill<int32_t>(static_cast<int32_t>(first - begin), cells);
    else
      fill<int64_t>(first - begin, cells);
  }

  template <typename Int>
  void fill(Int offset, int64_t cells) {
    const auto most = static_cast<int32_t>(cells - 1);
    const auto count = static_cast<Int>(last - first);
    for (Int i = 0; i < count; ++i) {
      const float at = std::max((static_cast<float>(i + offset) + 0.5f) * step - 0.5f, 0.0f);
      const int32_t cell = std::min(static_cast<int32_t>(at), most);
      low[i] = cell;
      high[i] = std::min(cell + 1, most);
      weight[i] = at - static_cast<float>(cell);
    }
  }
};

// Run lengths down the columns of an image, beginning with zeros.
struct Runs {
  std::vector<int64_t> length{};
  int64_t start = 0;
  bool value = false;

  // The pixels from `position` on are `v`.
  void set(bool v, int64_t position) {
    if (v == value) return;
    value = v;
    if (position == start && !length.empty()) {  // the run since `start` is empty: the one before it goes on
      start -= length.back();
      length.pop_back();
      return;
    }
    length.push_back(position - start);
    start = position;
  }
};

constexpr uint8_t kAbove = 1, kBelow = 2;

// One column of the mask between two, and on which side of the threshold its cells are beyond doubt.
// All have room for `rows` rounded up to kRows, so that there is no remainder to go through one by one.
constexpr int64_t kRows = 32;

MASKRCNN_VECTORS void mix(const float* __restrict left, const float* __restrict right, float weight,
                          float* __restrict column, uint8_t* __restrict side, int64_t rows, float below, float above) {
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    for (int64_t k = begin; k < begin + kRows; ++k) column[k] = (1 - weight) * left[k] + weight * right[k];
    for (int64_t k = begin; k < begin + kRows; ++k)
      side[k] = static_cast<uint8_t>((column[k] > above ? kAbove : 0) | (column[k] < below ? kBelow : 0));
  }
}

struct Paster {
  int64_t height, width, rows, columns;
  float threshold;
  float doubt;
  PixelAxis y{}, x{};
  std::vector<float> turned{};   // the mask, column by column
  std::vector<float> column{};
  std::vector<uint8_t> side{};   // of the threshold, cell by cell of the column
  std::vector<int64_t> stretch{};  // first pixel of each stretch between two rows, and the end
  bool dense = false;

  // False where a pixel is so close to the threshold that another order of operations may decide otherwise.
  bool paste(const float* mask, const int64_t* box, Runs& runs) {
    y.build(box[1], box[3], height, rows);
    x.build(box[0], box[2], width, columns);
    find_stretches();
    const int64_t room = (rows + kRows - 1) / kRows * kRows;
    turned.assign(room * columns, 0.0f);
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t k = 0; k < rows; ++k) turned[j * room + k] = mask[k * columns + j];
    column.resize(room);
    side.resize(room);
    if (y.first < y.last) {
      for (size_t i = 0; i < x.low.size(); ++i) {
        mix(turned.data() + x.low[i] * room, turned.data() + x.high[i] * room, x.weight[i], column.data(), side.data(),
            rows, threshold - doubt, threshold + doubt);
        if (!paste_column((x.first + static_cast<int64_t>(i)) * height + y.first, runs)) return false;
      }
    }
    if (runs.start < height * width) runs.length.push_back(height * width - runs.start);
    return true;
  }

  // The pixels of the box's rows that lie between the same two rows of the mask.
  void find_stretches() {
    stretch.clear();
    for (size_t j = 0; j < y.low.size(); ++j)
      if (j == 0 || y.low[j] != y.low[j - 1]) stretch.push_back(static_cast<int64_t>(j));
    stretch.push_back(static_cast<int64_t>(y.low.size()));
    // Whether stretch i lies below row first + i, for all i.
    dense = !y.low.empty() && y.low.back() - y.low.front() == static_cast<int64_t>(stretch.size()) - 2;
  }

  // The next stretch, from i on, that is not wholly on the side that the run is on: eight at a time.
  int64_t skip_unchanged(int64_t i, int64_t count, bool value) const {
    const uint8_t* from = side.data() + y.low.front();
    const uint64_t same = 0x0101010101010101u * (value ? kAbove : kBelow);
    uint64_t here = 0, next = 0;
    for (; i + 8 < count; i += 8) {  // not the last one, which may end at the last row and has no next
      __builtin_memcpy(&here, from + i, 8);
      __builtin_memcpy(&next, from + i + 1, 8);
      if ((here & next) != same) break;
    }
    return i;
  }

  float value_at(int64_t j, float a, float b) const { return (1 - y.weight[j]) * a + y.weight[j] * b; }

  bool doubtful(float value) const { return std::abs(value - threshold) < doubt; }

  // Pixels begin .. end - 1 between cells of values a and b: on one side of the threshold, then on the other. Where they
  // change is estimated and then looked at: the two pixels there, the nearest to the threshold, must be beyond doubt.
  bool paste_stretch(int64_t begin, int64_t end, float a, float b, int64_t at, Runs& runs) const {
    const float start = value_at(begin, a, b), stop = value_at(end - 1, a, b);
    const bool first = start > threshold;
    runs.set(first, at + begin);
    if ((stop > threshold) == first) return !doubtful(start) && !doubtful(stop);
    const float pixels = ((threshold - a) / (b - a) - y.weight[begin]) / y.step;
    const auto most = static_cast<float>(end - 2 - begin);
    int64_t other = begin + 1 + (pixels > 0 ? static_cast<int64_t>(std::min(pixels, most)) : 0);
    while ((value_at(other, a, b) > threshold) == first) ++other;
    while ((value_at(other - 1, a, b) > threshold) != first) --other;
    runs.set(!first, at + other);
    return !doubtful(value_at(other - 1, a, b)) && !doubtful(value_at(other, a, b));
  }

  // One column, whose first pixel in the box is number `at` of the image.
  bool paste_column(int64_t at, Runs& runs) {
    const auto count = static_cast<int64_t>(stretch.size()) - 1;
    for (int64_t i = 0; i < count; ++i) {
      if (dense) i = skip_unchanged(i, count, runs.value);
      if (i == count) break;
      const int64_t begin = stretch[i], low = y.low[begin], high = y.high[begin];
      if (const uint8_t both = side[low] & side[high]) {
        runs.set(both == kAbove, at + begin);
        continue;
      }
      if (!paste_stretch(begin, stretch[i + 1], column[low], column[high], at, runs)) return false;
    }
    runs.set(false, at + stretch.back());
    return true;
  }
};

// COCO's compressed counts: from the fourth on the difference to the run two before, in groups of five bits, lowest
// first, the sign in bit 4 of the last group, bit 5 set where more follow, plus 48.
void compress(const std::vector<int64_t>& runs, std::vector<uint8_t>& text) {
  constexpr size_t kMost = 13;  // groups of five bits in an int64
  text.resize(runs.size() * kMost);
  uint8_t* to = text.data();
  for (size_t i = 0; i < runs.size(); ++i) {
    int64_t value = i > 2 ? runs[i] - runs[i - 2] : runs[i];
    bool more = true;
    while (more) {
      const int64_t group = value & 31;
      value >>= 5;
      more = value != (group & 16 ? -1 : 0);
      *to++ = static_cast<uint8_t>(group + (more ? 32 : 0) + 48);
    }
  }
  text.resize(to - text.data());
}

// masks [D, rows, columns] float32 (with their padding), boxes [D, 4] int64 whole pixels, the last ones included.
// Returns the texts end to end [B] uint8 and where each ends [D] int64; a text of no length stands for a mask with a
// pixel closer to the threshold than `doubt`.
std::tuple<Tensor, Tensor> masks_to_rle(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold, double doubt) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.scalar_type() == ScalarType::Float && masks.is_contiguous(),
                  "masks: expected contiguous float32 [D, rows, columns]");
  const int64_t count = masks.size(0), rows = masks.size(1), columns = masks.size(2);
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(0) == count && boxes.size(1) == 4 &&
                      boxes.scalar_type() == ScalarType::Long && boxes.is_contiguous(),
                  "boxes: expected contiguous int64 [D, 4]");
  std::vector<std::vector<uint8_t>> text(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Paster paster{height, width, rows, columns, static_cast<float>(threshold), static_cast<float>(doubt)};
    for (int64_t d = begin; d < end; ++d) {
      Runs runs;
      if (paster.paste(masks.const_data_ptr<float>() + d * rows * columns, boxes.const_data_ptr<int64_t>() + 4 * d, runs))
        compress(runs.length, text[d]);
    }
  });
  int64_t total = 0;
  for (const auto& t : text) total += static_cast<int64_t>(t.size());
  const auto fresh = [&](int64_t size, ScalarType dtype) {
    return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(&size, 1), dtype, std::nullopt, masks.device());
  };
  Tensor bytes = fresh(total, ScalarType::Byte), ends = fresh(count, ScalarType::Long);
  uint8_t* to = bytes.mutable_data_ptr<uint8_t>();
  int64_t at = 0;
  for (int64_t d = 0; d < count; ++d) {
    std::copy(text[d].begin(), text[d].end(), to + at);
    at += static_cast<int64_t>(text[d].size());
    ends.mutable_data_ptr<int64_t>()[d] = at;
  }
  return {bytes, ends};
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("masks_to_rle", TORCH_BOX(&masks_to_rle)); }

}  // namespace
}  // namespace maskrcnn_ops
