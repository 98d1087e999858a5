// The inner loops of kernels.h for one instruction set. Included after lanes.inl, in a namespace of its own. Scalar loops use
// the same operations as vector loops, so that results do not depend on how channels are divided among threads.

// Lanes<T, G> handles `width` values of T as a vector of G. Single<T, G> handles one value.
template <typename T, typename G>
struct Single {
  static constexpr int64_t width = 1;
  using Vector = G;
  using Integer = int32_t;
  static Vector load(const T* p) { return static_cast<G>(*p); }
  static void store(T* p, Vector v) { *p = static_cast<T>(v); }
  static Vector load_sum(const G* p) { return *p; }
  static void store_sum(G* p, Vector v) { *p = v; }
  static Vector splat(G x) { return x; }
  static Integer splat_integer(int32_t x) { return x; }
  static Integer load_integer(const int32_t* p) { return *p; }
  static void store_integer(int32_t* p, Integer v) { *p = v; }
  static Vector where_equal(Integer a, Integer b, Vector v) { return a == b ? v : G(0); }
  static void take_larger(Vector v, Integer at, Vector& best, Integer& place) {
    if (v > best || v != v) {
      best = v;
      place = at;
    }
  }
};

// Handles B vectors of channels at once. The steps lead from one vector to the next.
template <typename L, int B, typename T, typename G>
inline void gather_block(const T* map, int64_t map_step, const BinTaps<G>& taps, T* out, int64_t out_step) {
  typename L::Vector sum[B];
  for (int b = 0; b < B; ++b) sum[b] = L::splat(G(0));
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.columns; ++j) {
      const T* cell = map + taps.row[i] + taps.column[j];
      const auto weight = L::splat(taps.row_weight[i] * taps.column_weight[j]);
      for (int b = 0; b < B; ++b) sum[b] = madd(L::load(cell + b * map_step), weight, sum[b]);
    }
  }
  for (int b = 0; b < B; ++b) L::store(out + b * out_step, sum[b]);
}

template <typename T, typename G>
void gather(const T* map, int64_t map_step, const BinTaps<G>& taps, T* out, int64_t out_step, int64_t channels) {
  using L = Lanes<T, G>;
  using S = Single<T, G>;
  int64_t c = 0;
  if (map_step == 1 && out_step == 1) {
    constexpr int64_t w = L::width;
    for (; c + 8 * w <= channels; c += 8 * w) gather_block<L, 8>(map + c, w, taps, out + c, w);
    for (; c + w <= channels; c += w) gather_block<L, 1>(map + c, w, taps, out + c, w);
  }
  for (; c + 8 <= channels; c += 8) gather_block<S, 8>(map + c * map_step, map_step, taps, out + c * out_step, out_step);
  for (; c + 4 <= channels; c += 4) gather_block<S, 4>(map + c * map_step, map_step, taps, out + c * out_step, out_step);
  for (; c < channels; ++c) gather_block<S, 1>(map + c * map_step, map_step, taps, out + c * out_step, out_step);
}

template <typename L, int B, typename T, typename G>
inline void scatter_block(G* map, int64_t map_step, const BinTaps<G>& taps, const T* grad, int64_t grad_step) {
  typename L::Vector part[B];
  for (int b = 0; b < B; ++b) part[b] = L::load(grad + b * grad_step);
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.columns; ++j) {
      G* cell = map + taps.row[i] + taps.column[j];
      const auto weight = L::splat(taps.row_weight[i] * taps.column_weight[j]);
      for (int b = 0; b < B; ++b) {
        G* to = cell + b * map_step;
        L::store_sum(to, madd(part[b], weight, L::load_sum(to)));
      }
    }
  }
}

template <typename T, typename G>
void scatter(G* map, int64_t map_step, const BinTaps<G>& taps, const T* grad, int64_t grad_step, int64_t channels) {
  using L = Lanes<T, G>;
  using S = Single<T, G>;
  int64_t c = 0;
  if (map_step == 1 && grad_step == 1) {
    constexpr int64_t w = L::width;
    for (; c + 8 * w <= channels; c += 8 * w) scatter_block<L, 8>(map + c, w, taps, grad + c, w);
    for (; c + w <= channels; c += w) scatter_block<L, 1>(map + c, w, taps, grad + c, w);
  }
  for (; c + 8 <= channels; c += 8) scatter_block<S, 8>(map + c * map_step, map_step, taps, grad + c * grad_step, grad_step);
  for (; c + 4 <= channels; c += 4) scatter_block<S, 4>(map + c * map_step, map_step, taps, grad + c * grad_step, grad_step);
  for (; c < channels; ++c) scatter_block<S, 1>(map + c * map_step, map_step, taps, grad + c * grad_step, grad_step);
}

template <typename L, int B, typename T, typename G>
inline void cell_maximum_block(const T* map, const BinTaps<G>& taps, int32_t number, int32_t row_step, T* out, int32_t* winner) {
  typename L::Vector best[B];
  typename L::Integer place[B];
  for (int b = 0; b < B; ++b) {
    best[b] = L::load(map + taps.row[0] + taps.column[0] + b * L::width);
    place[b] = L::splat_integer(number);
  }
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = i == 0 ? 1 : 0; j < taps.columns; ++j) {
      const T* cell = map + taps.row[i] + taps.column[j];
      const auto at = L::splat_integer(static_cast<int32_t>(number + i * row_step + j));
      for (int b = 0; b < B; ++b) L::take_larger(L::load(cell + b * L::width), at, best[b], place[b]);
    }
  }
  for (int b = 0; b < B; ++b) {
    L::store(out + b * L::width, best[b]);
    L::store_integer(winner + b * L::width, place[b]);
  }
}

template <typename T, typename G>
void cell_maximum(const T* map, const BinTaps<G>& taps, int32_t number, int32_t row_step, T* out, int32_t* winner, int64_t channels) {
  using L = Lanes<T, G>;
  int64_t c = 0;
  for (; c + 4 * L::width <= channels; c += 4 * L::width)
    cell_maximum_block<L, 4>(map + c, taps, number, row_step, out + c, winner + c);
  for (; c < channels; ++c) cell_maximum_block<Single<T, G>, 1>(map + c, taps, number, row_step, out + c, winner + c);
}

// The adjoint of cell_maximum: every cell of the bin gets the gradients of the channels in which it won.
template <typename L, int B, typename T, typename G>
inline void cell_scatter_block(G* map, const BinTaps<G>& taps, int32_t number, int32_t row_step, const T* grad, const int32_t* winner) {
  typename L::Vector part[B];
  typename L::Integer place[B];
  for (int b = 0; b < B; ++b) {
    part[b] = L::load(grad + b * L::width);
    place[b] = L::load_integer(winner + b * L::width);
  }
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.columns; ++j) {
      G* cell = map + taps.row[i] + taps.column[j];
      const auto at = L::splat_integer(static_cast<int32_t>(number + i * row_step + j));
      for (int b = 0; b < B; ++b) {
        G* to = cell + b * L::width;
        L::store_sum(to, L::load_sum(to) + L::where_equal(place[b], at, part[b]));
      }
    }
  }
}

template <typename T, typename G>
void cell_scatter(G* map, const BinTaps<G>& taps, int32_t number, int32_t row_step, const T* grad, const int32_t* winner, int64_t channels) {
  using L = Lanes<T, G>;
  int64_t c = 0;
  for (; c + 4 * L::width <= channels; c += 4 * L::width)
    cell_scatter_block<L, 4>(map + c, taps, number, row_step, grad + c, winner + c);
  for (; c < channels; ++c) cell_scatter_block<Single<T, G>, 1>(map + c, taps, number, row_step, grad + c, winner + c);
}

template <typename L, typename T, typename G>
inline typename L::Vector point_value(const T* map, const int64_t* offset, const G* weight) {
  auto value = L::splat(G(0));
  for (int k = 0; k < 4; ++k) value = madd(L::load(map + offset[k]), L::splat(weight[k]), value);
  return value;
}

template <typename L, typename T, typename G>
inline void point_maximum_block(const T* map, int64_t points, const int64_t* offset, const G* weight, bool outside, T* out, int32_t* winner) {
  auto best = outside ? L::splat(G(0)) : point_value<L>(map, offset, weight);
  auto place = L::splat_integer(outside ? -1 : 0);
  for (int64_t i = outside ? 0 : 1; i < points; ++i)
    L::take_larger(point_value<L>(map, offset + 4 * i, weight + 4 * i), L::splat_integer(static_cast<int32_t>(i)), best, place);
  L::store(out, best);
  L::store_integer(winner, place);
}

template <typename T, typename G>
void point_maximum(const T* map, int64_t points, const int64_t* offset, const G* weight, bool outside, T* out, int32_t* winner, int64_t channels) {
  using L = Lanes<T, G>;
  int64_t c = 0;
  for (; c + L::width <= channels; c += L::width)
    point_maximum_block<L>(map + c, points, offset, weight, outside, out + c, winner + c);
  for (; c < channels; ++c)
    point_maximum_block<Single<T, G>>(map + c, points, offset, weight, outside, out + c, winner + c);
}

// Combines rows, B vectors at once: scratch[p, x] = sum of weight * plane[row + x].
template <typename L, int B, typename T, typename G>
inline void combine_block(const T* plane, const PlaneTaps<G> taps, G* scratch) {
  for (int64_t p = 0; p < taps.row_bins; ++p) {
    typename L::Vector sum[B];
    for (int b = 0; b < B; ++b) sum[b] = L::splat(G(0));
    for (int64_t k = taps.row_begin[p]; k < taps.row_begin[p + 1]; ++k) {
      const T* row = plane + taps.row[k];
      const auto weight = L::splat(taps.row_weight[k]);
      for (int b = 0; b < B; ++b) sum[b] = madd(L::load(row + b * L::width), weight, sum[b]);
    }
    for (int b = 0; b < B; ++b) L::store_sum(scratch + p * taps.width + b * L::width, sum[b]);
  }
}

template <typename L, typename T, typename G>
inline void combine_rows(const T* plane, const PlaneTaps<G> taps, G* scratch) {
  int64_t x = 0;
  for (; x + 6 * L::width < taps.width; x += 4 * L::width) combine_block<L, 4>(plane + x, taps, scratch + x);
  switch ((taps.width - x) / L::width) {
    case 1: return combine_block<L, 1>(plane + x, taps, scratch + x);
    case 2: return combine_block<L, 2>(plane + x, taps, scratch + x);
    case 3: return combine_block<L, 3>(plane + x, taps, scratch + x);
    case 4: return combine_block<L, 4>(plane + x, taps, scratch + x);
    case 5: return combine_block<L, 5>(plane + x, taps, scratch + x);
    default: return combine_block<L, 6>(plane + x, taps, scratch + x);
  }
}

// Computes rows p .. p + R - 1 of bins from their combined rows. R independent sums hide the latency. The last vector of a
// row of bins may write into the next row, whose first vector is written later.
template <int R, typename T, typename G>
inline void combine_columns(const PlaneTaps<G> taps, int64_t p, const G* scratch, T* out, typename Lanes<G, G>::Vector& check) {
  using S = Lanes<G, G>;
  const G* combined = scratch + p * taps.width;
  for (int64_t v = taps.padded_bins / S::width - 1; v >= 0; --v) {
    const int64_t q = v * S::width;
    typename S::Vector sum[R];
    for (int r = 0; r < R; ++r) sum[r] = S::splat(G(0));
    for (int64_t x = taps.column_begin[v]; x < taps.column_end[v]; ++x) {
      const auto weight = S::load_sum(taps.by_column + x * taps.padded_bins + q);
      for (int r = 0; r < R; ++r) sum[r] = madd(S::splat(combined[r * taps.width + x]), weight, sum[r]);
    }
    for (int r = 0; r < R; ++r) check = check + (sum[r] - sum[r]);
    const int64_t beyond = q + S::width - taps.bins;
    const int whole = beyond <= 0 || (beyond <= taps.bins && p + R < taps.row_bins) ? R : beyond <= taps.bins ? R - 1 : 0;
    for (int r = 0; r < whole; ++r) Lanes<T, G>::store(out + (p + r) * taps.bins + q, sum[r]);
    for (int r = whole; r < R; ++r) {
      G row[S::width];
      S::store_sum(row, sum[r]);
      for (int64_t i = 0; i < S::width - beyond; ++i) out[(p + r) * taps.bins + q + i] = static_cast<T>(row[i]);
    }
  }
}

template <typename T, typename G>
bool plane_gather(const T* plane, const PlaneTaps<G>& shared, G* scratch, T* out) {
  const PlaneTaps<G> taps = shared;
  using S = Lanes<G, G>;
  auto check = S::splat(G(0));  // becomes NaN if a value is infinite or NaN
  combine_rows<Lanes<T, G>>(plane, taps, scratch);
  int64_t p = 0;
  for (; p + 7 <= taps.row_bins; p += 7) combine_columns<7>(taps, p, scratch, out, check);
  for (; p < taps.row_bins; ++p) combine_columns<1>(taps, p, scratch, out, check);
  G row[S::width];
  S::store_sum(row, check);
  G total = 0;
  for (int64_t i = 0; i < S::width; ++i) total += row[i];
  return total == G(0);
}

template <typename T, typename G>
bool plane_scatter(G* plane, const PlaneTaps<G>& taps, const T* grad) {
  using S = Lanes<G, G>;
  G check = 0;
  for (int64_t i = 0; i < taps.row_bins * taps.bins; ++i) check += static_cast<G>(grad[i]) - static_cast<G>(grad[i]);
  if (check != G(0)) return false;
  for (int64_t p = 0; p < taps.row_bins; ++p) {
    const T* row = grad + p * taps.bins;
    for (int64_t x = 0; x < taps.width; x += S::width) {
      auto sum = S::splat(G(0));
      for (int64_t q = 0; q < taps.bins; ++q)
        sum = madd(S::load_sum(taps.by_bin + q * taps.width + x), S::splat(static_cast<G>(row[q])), sum);
      for (int64_t k = taps.row_begin[p]; k < taps.row_begin[p + 1]; ++k) {
        G* to = plane + taps.row[k] + x;
        S::store_sum(to, madd(sum, S::splat(taps.row_weight[k]), S::load_sum(to)));
      }
    }
  }
  return true;
}

template <typename T, typename G>
const Kernels<T, G>& table() {
  static const Kernels<T, G> kernels{
      Lanes<G, G>::width, &gather<T, G>, &scatter<T, G>, &cell_maximum<T, G>, &cell_scatter<T, G>, &point_maximum<T, G>,
      &plane_gather<T, G>, &plane_scatter<T, G>};
  return kernels;
}
