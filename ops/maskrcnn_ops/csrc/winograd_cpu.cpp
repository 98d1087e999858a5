// The transforms of Winograd's F(2x2, 3x3) for 3x3 convolutions with stride 1 and padding 1 (Lavin and Gray, 2016;
// equations 9 and 10), float32, channels-last. The products between them are matrix products, which torch computes.
//
// A tile is 2x2 cells of the output and reads 4x4 cells of the input. Tiles are numbered by (image, row, column).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "vectors.h"

namespace maskrcnn_ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLanes = 8;
using Lanes = float[kLanes];

// A channels-last map [N, H, W, C].
struct Grid {
  int64_t height, width, channels, rows, columns;  // rows and columns of tiles

  explicit Grid(const Tensor& map)
      : height(map.size(2)), width(map.size(3)), channels(map.size(1)), rows((height + 1) / 2), columns((width + 1) / 2) {}

  int64_t tiles(int64_t images) const { return images * rows * columns; }
};

// The first cell of a tile's output.
struct Corner {
  int64_t image, y, x;

  Corner(const Grid& grid, int64_t tile)
      : image(tile / grid.columns / grid.rows), y(2 * (tile / grid.columns % grid.rows)), x(2 * (tile % grid.columns)) {}
};

void check(const Tensor& map, const char* name) {
  STD_TORCH_CHECK(map.dim() == 4 && map.scalar_type() == ScalarType::Float, name, " must be a float32 map [N, C, H, W]");
  STD_TORCH_CHECK(map.size(1) % kLanes == 0, name, " must have a multiple of ", kLanes, " channels, got ", map.size(1));
  const int64_t step[4] = {map.size(2) * map.size(3) * map.size(1), 1, map.size(3) * map.size(1), map.size(1)};
  for (int k = 0; k < 4; ++k)
    STD_TORCH_CHECK(map.size(k) <= 1 || map.stride(k) == step[k], name, " must be channels-last");
}

// B^T d B, the 16 values of a tile `step` apart.
MASKRCNN_VECTORS void transform_input(const float* const* __restrict cell, float* __restrict out, int64_t step, int64_t channels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes row[4][4];
    for (int j = 0; j < 4; ++j)
      for (int l = 0; l < kLanes; ++l) {
        const float a = cell[j][c + l], b = cell[4 + j][c + l], d = cell[8 + j][c + l], e = cell[12 + j][c + l];
        row[0][j][l] = a - d;
        row[1][j][l] = b + d;
        row[2][j][l] = d - b;
        row[3][j][l] = b - e;
      }
    for (int i = 0; i < 4; ++i)
      for (int l = 0; l < kLanes; ++l) {
        float* at = out + 4 * i * step + c + l;
        at[0] = row[i][0][l] - row[i][2][l];
        at[step] = row[i][1][l] + row[i][2][l];
        at[2 * step] = row[i][2][l] - row[i][1][l];
        at[3 * step] = row[i][1][l] - row[i][3][l];
      }
  }
}

// A g A^T, for the gradient by the weight.
MASKRCNN_VECTORS void transform_gradient(const float* const* __restrict cell, float* __restrict out, int64_t step, int64_t channels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes row[4][2];
    for (int j = 0; j < 2; ++j)
      for (int l = 0; l < kLanes; ++l) {
        const float a = cell[j][c + l], b = cell[2 + j][c + l];
        row[0][j][l] = a;
        row[1][j][l] = a + b;
        row[2][j][l] = a - b;
        row[3][j][l] = -b;
      }
    for (int i = 0; i < 4; ++i)
      for (int l = 0; l < kLanes; ++l) {
        float* at = out + 4 * i * step + c + l;
        at[0] = row[i][0][l];
        at[step] = row[i][0][l] + row[i][1][l];
        at[2 * step] = row[i][0][l] - row[i][1][l];
        at[3 * step] = -row[i][1][l];
      }
  }
}

// A^T m A + bias. Cells outside the map have no place to be written to.
MASKRCNN_VECTORS void transform_output(const float* __restrict in, int64_t step, const float* __restrict bias, float* const* out,
                                       int64_t channels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes row[2][4];
    for (int j = 0; j < 4; ++j)
      for (int l = 0; l < kLanes; ++l) {
        const float* at = in + j * step + c + l;
        const float a = at[0], b = at[4 * step], d = at[8 * step], e = at[12 * step];
        row[0][j][l] = a + b + d;
        row[1][j][l] = b - d - e;
      }
    for (int i = 0; i < 2; ++i) {
      if (float* at = out[2 * i])
        for (int l = 0; l < kLanes; ++l) at[c + l] = row[i][0][l] + row[i][1][l] + row[i][2][l] + bias[c + l];
      if (float* at = out[2 * i + 1])
        for (int l = 0; l < kLanes; ++l) at[c + l] = row[i][1][l] - row[i][2][l] - row[i][3][l] + bias[c + l];
    }
  }
}

// The side x side cells of a tile, from `before` cells above and left of its corner on. `outside` stands for others.
template <typename Pointer>
void find_cells(const Grid& grid, int64_t tile, int64_t side, int64_t before, Pointer map, Pointer outside, Pointer* cell) {
  const Corner corner(grid, tile);
  for (int64_t k = 0; k < side * side; ++k) {
    const int64_t y = corner.y - before + k / side, x = corner.x - before + k % side;
    const bool inside = 0 <= y && y < grid.height && 0 <= x && x < grid.width;
    cell[k] = inside ? map + ((corner.image * grid.height + y) * grid.width + x) * grid.channels : outside;
  }
}

// Transforms the tiles `first` to `last` of a map: [16, tiles, C].
template <typename Transform>
Tensor transformed(const Tensor& map, int64_t first, int64_t last, int64_t side, int64_t before, Transform transform) {
  check(map, "the map");
  const Grid grid(map);
  STD_TORCH_CHECK(0 <= first && first <= last && last <= grid.tiles(map.size(0)), "no such tiles");
  Tensor out = torch::stable::new_empty(map, {16, last - first, grid.channels});
  const float* from = map.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const std::vector<float> outside(grid.channels);
  torch::stable::parallel_for(first, last, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const float* cell[16];
      find_cells(grid, tile, side, before, from, outside.data(), cell);
      transform(cell, to + (tile - first) * grid.channels, (last - first) * grid.channels, grid.channels);
    }
  });
  return out;
}

Tensor winograd_input(Tensor map, int64_t first, int64_t last) { return transformed(map, first, last, 4, 1, transform_input); }

Tensor winograd_gradient(Tensor map, int64_t first, int64_t last) { return transformed(map, first, last, 2, 0, transform_gradient); }

// Writes the tiles from `first` on, whose products are [16, tiles, K], into a map.
void winograd_output(Tensor products, std::optional<Tensor> bias, Tensor map, int64_t first) {
  check(map, "the map");
  const Grid grid(map);
  const int64_t tiles = products.size(1);
  STD_TORCH_CHECK(products.scalar_type() == ScalarType::Float && products.is_contiguous() && products.size(0) == 16 &&
                      products.size(2) == grid.channels && first + tiles <= grid.tiles(map.size(0)),
                  "the products do not belong to the map");
  STD_TORCH_CHECK(!bias || (bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == grid.channels),
                  "the bias must have a float32 value for each channel");
  const std::vector<float> zeros(bias ? 0 : grid.channels);
  const float* shift = bias ? bias->const_data_ptr<float>() : zeros.data();
  const float* from = products.const_data_ptr<float>();
  float* to = map.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      float* out[4];
      find_cells<float*>(grid, first + tile, 2, 0, to, nullptr, out);
      transform_output(from + tile * grid.channels, tiles * grid.channels, shift, out, grid.channels);
    }
  });
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) {
  m.impl("winograd_input", TORCH_BOX(&winograd_input));
  m.impl("winograd_gradient", TORCH_BOX(&winograd_gradient));
  m.impl("winograd_output", TORCH_BOX(&winograd_output));
}

}  // namespace
}  // namespace maskrcnn_ops
