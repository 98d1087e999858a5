// Encodes mask probabilities, pasted into an image, as COCO's compressed run lengths (CPU).
//
// A pasted column is linear between two rows of the mask, so it crosses the threshold at most once there. Only the
// pixels of a stretch with a crossing are examined one by one, and no image is made.
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

// A position along one axis of the mask, between cells `low` and `high`. `weight` is that of `high`.
struct Place {
  int32_t low, high;
  float weight;

  Place(float at, int32_t most)
      : low(std::min(static_cast<int32_t>(at), most)), high(std::min(low + 1, most)), weight(at - static_cast<float>(low)) {}
};

// Positions in the mask of the box's pixels along one axis, as in torch's bilinear resampling.
struct PixelAxis {
  int64_t first, last;  // pixels of the image, cut to it
  int64_t before;       // pixels of the box before the first
  int32_t most;         // the last cell
  std::vector<int32_t> low, high;
  std::vector<float> weight;
  float step, pixels;  // cells to a pixel, pixels to a cell

  void build(int64_t begin, int64_t end, int64_t limit, int64_t cells) {
    const int64_t size = std::max<int64_t>(end - begin + 1, 1);
    first = std::clamp<int64_t>(begin, 0, limit);
    last = std::clamp<int64_t>(end + 1, first, limit);
    step = static_cast<float>(cells) / static_cast<float>(size);
    pixels = static_cast<float>(size) / static_cast<float>(cells);
    before = first - begin;
    most = static_cast<int32_t>(cells - 1);
    low.resize(last - first);
    high.resize(last - first);
    weight.resize(last - first);
    // int32 vectorises; boxes that begin beyond its range need int64.
    if (before < std::numeric_limits<int32_t>::max() - (last - first)) fill<int32_t>();
    else fill<int64_t>();
  }

  template <typename Int>
  void fill() {
    const auto offset = static_cast<Int>(before), count = static_cast<Int>(last - first);
    for (Int i = 0; i < count; ++i) {
      const Place place(std::max((static_cast<float>(i + offset) + 0.5f) * step - 0.5f, 0.0f), most);
      low[i] = place.low;
      high[i] = place.high;
      weight[i] = place.weight;
    }
  }

  // Pixel i. Torch rounds product and difference once (`fused`) or twice, depending on its build and the size.
  Place place(int64_t i, bool fused) const {
    const float pixel = static_cast<float>(i + before) + 0.5f;
    const float at = fused ? static_cast<float>(static_cast<double>(pixel) * step - 0.5) : pixel * step - 0.5f;
    return {std::max(at, 0.0f), most};
  }

  // Largest difference between the two roundings, in cells.
  float rounding() const { return 2 * std::numeric_limits<float>::epsilon() * static_cast<float>(most + 1); }
};

// Run lengths of an image in column-major order, beginning with zeros.
struct Runs {
  std::vector<int64_t> length{};
  int64_t start = 0;
  bool value = false;

  void clear() {
    length.clear();
    start = 0;
    value = false;
  }

  // The pixels from `position` on are `v`.
  void set(bool v, int64_t position) {
    if (v == value) return;
    value = v;
    if (position == start && !length.empty()) {  // the current run is empty: continue the one before it
      start -= length.back();
      length.pop_back();
      return;
    }
    length.push_back(position - start);
    start = position;
  }
};

constexpr uint8_t kAbove = 1, kBelow = 2;

// A column interpolated between two columns of the mask, and on which side of the threshold its cells certainly are.
// The arrays hold `rows` rounded up to kRows, so that vector loops have no remainder.
constexpr int64_t kRows = 32;

MASKRCNN_VECTORS void mix(const float* __restrict left, const float* __restrict right, float weight,
                          float* __restrict column, uint8_t* __restrict side, int64_t rows, float below, float above) {
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    for (int64_t k = begin; k < begin + kRows; ++k) column[k] = (1 - weight) * left[k] + weight * right[k];
    for (int64_t k = begin; k < begin + kRows; ++k)
      side[k] = static_cast<uint8_t>((column[k] > above ? kAbove : 0) | (column[k] < below ? kBelow : 0));
  }
}

// The largest magnitude of `count` values, a multiple of kRows.
MASKRCNN_VECTORS float largest(const float* __restrict values, int64_t count) {
  float most[kRows] = {};
  for (int64_t begin = 0; begin < count; begin += kRows)
    for (int64_t k = 0; k < kRows; ++k) most[k] = std::max(most[k], std::abs(values[begin + k]));
  return *std::max_element(most, most + kRows);
}

// A pixel that another order of operations may put on the other side of the threshold. Its row and column count from the
// first visible ones of the box.
struct Doubt {
  int64_t row, column;
  bool above;
};

struct Paster {
  int64_t height, width, rows, columns, padding;  // rows and columns include the padding
  float threshold;
  float doubt;
  PixelAxis y{}, x{};
  std::vector<float> turned{};   // the mask, column by column
  std::vector<float> column{};
  std::vector<uint8_t> side{};   // of the threshold, for each cell of the column
  std::vector<int64_t> stretch{};  // first pixel of each stretch between two rows, and the end
  bool dense = false;
  int64_t room = 0;  // from one column of `turned` to the next
  int64_t pixel_column = 0;
  float reach = 0;  // values farther than this from the threshold are not doubtful
  std::vector<Doubt> doubts{};

  // Returns false if a whole stretch is so close to the threshold that another order of operations may decide
  // differently. Single doubtful pixels are stored in `doubts`.
  bool paste(const float* mask, const int64_t* box, Runs& runs) {
    y.build(box[1], box[3], height, rows);
    x.build(box[0], box[2], width, columns);
    find_stretches();
    room = (rows + kRows - 1) / kRows * kRows;
    turned.assign(room * columns, 0.0f);
    const int64_t inner = columns - 2 * padding;
    for (int64_t j = padding; j < columns - padding; ++j)
      for (int64_t k = padding; k < rows - padding; ++k) turned[j * room + k] = mask[(k - padding) * inner + j - padding];
    reach = doubt < 0 ? 0 : doubt + 2 * largest(turned.data(), room * columns) * (x.rounding() + y.rounding());
    column.resize(room);
    side.resize(room + 2 * kRows);  // read in whole groups, from any row on
    if (y.first < y.last) {
      for (size_t i = 0; i < x.low.size(); ++i) {
        pixel_column = static_cast<int64_t>(i);
        mix(turned.data() + x.low[i] * room, turned.data() + x.high[i] * room, x.weight[i], column.data(), side.data(),
            rows, threshold - reach, threshold + reach);
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

  // Sets bit i if stretch `begin + i` of 32 is not entirely on one side of the threshold. Only there does the value of the
  // mask change.
  uint64_t changes(int64_t begin) const {
    const uint8_t* from = side.data() + y.low.front() + begin;
    uint64_t here = 0, next = 0, bits = 0;
    for (int i = 0; i < 32; i += 8) {
      __builtin_memcpy(&here, from + i, 8);
      __builtin_memcpy(&next, from + i + 1, 8);
      const uint64_t both = here & next;
      const uint64_t one = ~(both | both >> 1) & 0x0101010101010101u;  // of each byte the lowest bit
      bits |= (one * 0x0102040810204080u >> 56) << i;                    // next to each other
    }
    return bits;
  }

  float value_at(int64_t j, float a, float b) const { return (1 - y.weight[j]) * a + y.weight[j] * b; }

  bool near(float value) const { return std::abs(value - threshold) < reach; }

  // Whether torch may put pixel j on the other side of the threshold. Another order of operations changes its value by at
  // most half of `doubt`, and its position may be rounded differently.
  [[gnu::noinline]] bool doubtful(int64_t j) const {
    bool above = false, below = false;
    for (const bool fused_x : {false, true}) {
      for (const bool fused_y : {false, true}) {
        const double value = exact_at(x.place(pixel_column, fused_x), y.place(j, fused_y)) - threshold;
        if (std::abs(value) < 0.5 * doubt) return true;
        (value > 0 ? above : below) = true;
      }
    }
    return above && below;
  }

  double exact_at(const Place& u, const Place& v) const {
    const auto mixed = [](double a, double b, float weight) { return static_cast<double>(1 - weight) * a + weight * b; };
    const auto row = [&](int64_t k) { return mixed(turned[u.low * room + k], turned[u.high * room + k], u.weight); };
    return mixed(row(v.low), row(v.high), v.weight);
  }

  // Pixels begin .. end - 1 between cells of values a and b, which cross the threshold once, upwards if `up`. The first
  // pixel after the crossing is unpredictable, so it is found without branches.
  void cross_stretch(int64_t begin, int64_t end, float a, float b, bool up, int64_t at, Runs& runs) {
    const float pixels = ((threshold - a) / (b - a) - y.weight[begin]) * y.pixels + 1;
    const auto most = static_cast<float>(end - begin);
    int64_t other = std::min(begin + (pixels > 0 ? static_cast<int64_t>(std::min(pixels, most)) : 0), end);
    const float before = value_at(std::max(other - 1, begin), a, b), after = value_at(std::min(other, end - 1), a, b);
    const bool wrong = ((other > begin) & ((before > threshold) == up)) | ((other < end) & ((after > threshold) != up));
    if (wrong | near(before) | near(after))
      other = look_closely(begin, end, other, a, b, up);
    runs.set(!up, at + begin);
    runs.set(up, at + other);
  }

  // The same, pixel by pixel from the estimated position.
  [[gnu::noinline]] int64_t look_closely(int64_t begin, int64_t end, int64_t other, float a, float b, bool up) {
    while (other < end && (value_at(other, a, b) > threshold) != up) ++other;
    while (other > begin && (value_at(other - 1, a, b) > threshold) == up) --other;
    for (int64_t j = other; j < end && near(value_at(j, a, b)); ++j)
      if (doubtful(j)) doubts.push_back({j, pixel_column, up});
    for (int64_t j = other - 1; j >= begin && near(value_at(j, a, b)); --j)
      if (doubtful(j)) doubts.push_back({j, pixel_column, !up});
    return other;
  }

  // Pixels begin .. end - 1 between cells of values a and b, which may be doubtful.
  bool paste_stretch(int64_t begin, int64_t end, float a, float b, int64_t at, Runs& runs) {
    const float start = value_at(begin, a, b), stop = value_at(end - 1, a, b);
    const bool above = start > threshold;
    if ((stop > threshold) != above) {
      cross_stretch(begin, end, a, b, !above, at, runs);
      return true;
    }
    runs.set(above, at + begin);
    return !(near(start) && doubtful(begin)) && !(near(stop) && doubtful(end - 1));
  }

  // One column. The number of its first pixel in the image is `at`.
  bool paste_column(int64_t at, Runs& runs) {
    const auto count = static_cast<int64_t>(stretch.size()) - 1;
    for (int64_t begin = 0; begin < count; begin += 32) {
      const int64_t here = std::min<int64_t>(count - begin, 32);
      uint64_t looked_at = (uint64_t{1} << here) - 1;
      // The first one gives the side at the top; the last one may have no next row.
      if (dense) looked_at &= changes(begin) | (begin == 0) | static_cast<uint64_t>(begin + here == count) << (here - 1);
      for (; looked_at; looked_at &= looked_at - 1)
        if (!paste_one(begin + __builtin_ctzll(looked_at), at, runs)) return false;
    }
    runs.set(false, at + stretch.back());
    return true;
  }

  bool paste_one(int64_t i, int64_t at, Runs& runs) {
    const int64_t begin = stretch[i], end = stretch[i + 1], low = y.low[begin], high = y.high[begin];
    if (const uint8_t both = side[low] & side[high]) {
      runs.set(both == kAbove, at + begin);
      return true;
    }
    const bool up = side[high] == kAbove;
    if (side[low] && side[high]) {
      cross_stretch(begin, end, column[low], column[high], up, at, runs);
      return true;
    }
    if (!paste_stretch(begin, end, column[low], column[high], at, runs)) return false;
    if (side[high]) runs.set(up, at + end);
    return true;
  }
};

// COCO's compressed counts. From the fourth run on, the difference to the run two before is stored. A number is cut into
// groups of five bits, lowest first. Bit 5 says that more groups follow, bit 4 of the last group is the sign, and 48 is
// added to each group.
void compress(const std::vector<int64_t>& runs, std::vector<uint8_t>& room, std::vector<uint8_t>& text) {
  constexpr size_t kMost = 13;  // groups of five bits in an int64
  room.resize(std::max(room.size(), runs.size() * kMost));
  uint8_t* to = room.data();
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
  text.assign(room.data(), to);
}

// Takes masks [D, rows, columns] float32, the number `padding` of zero cells around them, and their boxes with padding
// [D, 4] int64 in whole pixels, the last ones included. Returns
// - the concatenated texts [B] uint8; the text of a mask with a doubtful stretch is empty,
// - the end of each text [D] int64,
// - single doubtful pixels [Q, 4] int64: mask, row and column from the first visible ones, 1 if taken as above.
// A pixel is doubtful if torch may decide differently. Two orders of operations differ by at most `doubt`. With a negative
// `doubt`, no pixel is doubtful.
std::tuple<Tensor, Tensor, Tensor> masks_to_rle(Tensor masks, Tensor boxes, int64_t height, int64_t width, int64_t padding,
                                                double threshold, double doubt) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.scalar_type() == ScalarType::Float && masks.is_contiguous(),
                  "masks: expected contiguous float32 [D, rows, columns]");
  const int64_t count = masks.size(0), rows = masks.size(1), columns = masks.size(2);
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(0) == count && boxes.size(1) == 4 &&
                      boxes.scalar_type() == ScalarType::Long && boxes.is_contiguous(),
                  "boxes: expected contiguous int64 [D, 4]");
  STD_TORCH_CHECK(padding >= 0, "padding: expected 0 or more");
  std::vector<std::vector<uint8_t>> text(count);
  std::vector<std::vector<Doubt>> doubts(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Paster paster{height, width, rows + 2 * padding, columns + 2 * padding, padding, static_cast<float>(threshold),
                  static_cast<float>(doubt)};
    Runs runs;
    std::vector<uint8_t> room;
    for (int64_t d = begin; d < end; ++d) {
      runs.clear();
      paster.doubts.clear();
      if (!paster.paste(masks.const_data_ptr<float>() + d * rows * columns, boxes.const_data_ptr<int64_t>() + 4 * d, runs)) continue;
      compress(runs.length, room, text[d]);
      doubts[d] = paster.doubts;
    }
  });
  const auto fresh = [&](std::vector<int64_t> shape, ScalarType dtype) {
    return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()), dtype, std::nullopt, masks.device());
  };
  int64_t letters = 0, close = 0;
  for (const auto& t : text) letters += static_cast<int64_t>(t.size());
  for (const auto& some : doubts) close += static_cast<int64_t>(some.size());
  Tensor bytes = fresh({letters}, ScalarType::Byte), ends = fresh({count}, ScalarType::Long), pixels = fresh({close, 4}, ScalarType::Long);
  uint8_t* const first = bytes.mutable_data_ptr<uint8_t>();
  uint8_t* to = first;
  int64_t* pixel = pixels.mutable_data_ptr<int64_t>();
  for (int64_t d = 0; d < count; ++d) {
    to = std::copy(text[d].begin(), text[d].end(), to);
    ends.mutable_data_ptr<int64_t>()[d] = to - first;
    for (const Doubt& one : doubts[d])
      for (const int64_t number : {d, one.row, one.column, int64_t{one.above}}) *pixel++ = number;
  }
  return {bytes, ends, pixels};
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("masks_to_rle", TORCH_BOX(&masks_to_rle)); }

}  // namespace
}  // namespace maskrcnn_ops
