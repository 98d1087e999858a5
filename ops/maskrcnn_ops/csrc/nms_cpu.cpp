// Greedy non-maximum suppression over a batch of images and groups on the CPU.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "nms.h"
#include "vectors.h"

namespace maskrcnn_ops {
namespace {

// Boxes of one group in decreasing order of score. Coordinates are stored in separate arrays so that loops vectorise.
template <typename G>
struct Group {
  std::vector<G> x1, y1, x2, y2;
  std::vector<uint8_t> gone;

  void take(const G* boxes, const int64_t* member, int64_t count) {
    for (auto* coordinate : {&x1, &y1, &x2, &y2}) coordinate->resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const G* box = boxes + 4 * member[i];
      x1[i] = box[0];
      y1[i] = box[1];
      x2[i] = box[2];
      y2[i] = box[3];
    }
    gone.assign(count, 0);
  }

  // `bound` is the threshold in G. An overlap q is above the threshold if q > bound, or q >= bound with `or_equal`.
  MASKRCNN_VECTORS void suppress_after(int64_t i, G bound, bool or_equal) {
    const Corners<G> a{x1[i], y1[i], x2[i], y2[i]};
    const auto count = static_cast<int64_t>(gone.size());
    const G *left = x1.data(), *top = y1.data(), *right = x2.data(), *bottom = y2.data();
    uint8_t* out = gone.data();
    if (or_equal) {
      for (int64_t j = i + 1; j < count; ++j) out[j] |= overlap(a, Corners<G>{left[j], top[j], right[j], bottom[j]}) >= bound;
    } else {
      for (int64_t j = i + 1; j < count; ++j) out[j] |= overlap(a, Corners<G>{left[j], top[j], right[j], bottom[j]}) > bound;
    }
  }
};

// Boxes of one image. `order` lists them by decreasing score. keep[k] says whether box k is kept.
template <typename G>
void suppress(const G* boxes, const int64_t* order, const int64_t* groups, const bool* valid, int64_t count, double threshold, bool* keep) {
  std::vector<int64_t> member;
  for (int64_t i = 0; i < count; ++i) {
    keep[order[i]] = false;
    if (valid[order[i]]) member.push_back(order[i]);
  }
  std::stable_sort(member.begin(), member.end(), [&](int64_t a, int64_t b) { return groups[a] < groups[b]; });
  // If G(threshold) is rounded up, an overlap equal to it is above the threshold.
  const G bound = static_cast<G>(threshold);
  const bool or_equal = static_cast<double>(bound) > threshold;
  Group<G> group;
  for (size_t begin = 0, end = 0; begin < member.size(); begin = end) {
    while (end < member.size() && groups[member[end]] == groups[member[begin]]) ++end;
    const auto size = static_cast<int64_t>(end - begin);
    group.take(boxes, member.data() + begin, size);
    for (int64_t i = 0; i < size; ++i) {
      if (group.gone[i]) continue;
      keep[member[begin + i]] = true;
      group.suppress_after(i, bound, or_equal);
    }
  }
}

template <typename G>
void suppress_images(const Tensor& boxes, const Tensor& order, const Tensor& groups, const Tensor& valid, double threshold, Tensor& keep) {
  const int64_t count = boxes.size(1);
  torch::stable::parallel_for(0, boxes.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      suppress(boxes.const_data_ptr<G>() + 4 * n * count, order.const_data_ptr<int64_t>() + n * count,
               groups.const_data_ptr<int64_t>() + n * count, valid.const_data_ptr<bool>() + n * count, count, threshold,
               keep.mutable_data_ptr<bool>() + n * count);
  });
}

Tensor nms(Tensor boxes, Tensor order, Tensor groups, Tensor valid, double threshold) {
  check_suppression(boxes, order, groups, valid);
  Tensor keep = torch::stable::empty_like(valid);
  if (boxes.scalar_type() == ScalarType::Double) suppress_images<double>(boxes, order, groups, valid, threshold, keep);
  else suppress_images<float>(boxes, order, groups, valid, threshold, keep);
  return keep;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
}

}  // namespace
}  // namespace maskrcnn_ops
