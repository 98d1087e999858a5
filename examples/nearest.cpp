// out[r, c, p, q] is the cell of map[c] nearest to the centre of bin (p, q) of box r; index[r, p, q] says which one.
#include <algorithm>
#include <cstdint>

extern "C" void nearest(const float* map, const float* boxes, float* out, int64_t* index, int64_t channels,
                        int64_t height, int64_t width, int64_t regions, int64_t bins) {
  for (int64_t r = 0; r < regions; ++r) {
    const float* box = boxes + 4 * r;
    for (int64_t p = 0; p < bins; ++p) {
      for (int64_t q = 0; q < bins; ++q) {
        const float y = box[1] + (p + 0.5f) * (box[3] - box[1]) / bins;
        const float x = box[0] + (q + 0.5f) * (box[2] - box[0]) / bins;
        const int64_t row = std::clamp<int64_t>(y, 0, height - 1), column = std::clamp<int64_t>(x, 0, width - 1);
        const int64_t bin = (r * bins + p) * bins + q;
        index[bin] = row * width + column;
        for (int64_t c = 0; c < channels; ++c)
          out[((r * channels + c) * bins + p) * bins + q] = map[(c * height + row) * width + column];
      }
    }
  }
}
