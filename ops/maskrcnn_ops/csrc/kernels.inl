// Inner loops of kernels.h for one instruction set: included after lanes.inl in a namespace of its own. Scalar remainders use the same operations as the
// vectors, so that a channel's bits do not depend on how channels are shared among threads.

// Lanes<T, G>: `width` values of T as a vector of G. Single<T, G>: one value, for the remainder.
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
  static void store_integer(int32_t* p, Integer v) { *p = v; }
  static void take_larger(Vector v, Integer at, Vector& best, Integer& place) {
    if (v > best || v != v) {
      best = v;
      place = at;
    }
  }
};

template <typename L, int B, typename T, typename G>
inline void gather_block(const T* map, const BinTaps<G>& taps, T* out) {
  typename L::Vector sum[B];
  for (int b = 0; b < B; ++b) sum[b] = L::splat(G(0));
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.columns; ++j) {
      const T* cell = map + taps.row[i] + taps.column[j];
      const auto weight = L::splat(taps.row_weight[i] * taps.column_weight[j]);
      for (int b = 0; b < B; ++b) sum[b] = madd(L::load(cell + b * L::width), weight, sum[b]);
    }
  }
  for (int b = 0; b < B; ++b) L::store(out + b * L::width, sum[b]);
}

template <typename T, typename G>
void gather(const T* map, const BinTaps<G>& taps, T* out, int64_t channels) {
  using L = Lanes<T, G>;
  int64_t c = 0;
  for (; c + 8 * L::width <= channels; c += 8 * L::width) gather_block<L, 8>(map + c, taps, out + c);
  for (; c + L::width <= channels; c += L::width) gather_block<L, 1>(map + c, taps, out + c);
  for (; c < channels; ++c) gather_block<Single<T, G>, 1>(map + c, taps, out + c);
}

template <typename L, int B, typename T, typename G>
inline void scatter_block(G* map, const BinTaps<G>& taps, const T* grad) {
  typename L::Vector part[B];
  for (int b = 0; b < B; ++b) part[b] = L::load(grad + b * L::width);
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.columns; ++j) {
      G* cell = map + taps.row[i] + taps.column[j];
      const auto weight = L::splat(taps.row_weight[i] * taps.column_weight[j]);
      for (int b = 0; b < B; ++b) {
        G* to = cell + b * L::width;
        L::store_sum(to, madd(part[b], weight, L::load_sum(to)));
      }
    }
  }
}

template <typename T, typename G>
void scatter(G* map, const BinTaps<G>& taps, const T* grad, int64_t channels) {
  using L = Lanes<T, G>;
  int64_t c = 0;
  for (; c + 8 * L::width <= channels; c += 8 * L::width) scatter_block<L, 8>(map + c, taps, grad + c);
  for (; c + L::width <= channels; c += L::width) scatter_block<L, 1>(map + c, taps, grad + c);
  for (; c < channels; ++c) scatter_block<Single<T, G>, 1>(map + c, taps, grad + c);
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

// One row of bins before the columns are combined: scratch[x] = sum of weight * plane[row + x].
template <typename L, int B, typename T, typename G>
inline void combine_block(const T* plane, const PlaneTaps<G>& taps, int64_t p, G* scratch) {
  typename L::Vector sum[B];
  for (int b = 0; b < B; ++b) sum[b] = L::splat(G(0));
  for (int64_t k = taps.row_begin[p]; k < taps.row_begin[p + 1]; ++k) {
    const T* row = plane + taps.row[k];
    const auto weight = L::splat(taps.row_weight[k]);
    for (int b = 0; b < B; ++b) sum[b] = madd(L::load(row + b * L::width), weight, sum[b]);
  }
  for (int b = 0; b < B; ++b) L::store_sum(scratch + b * L::width, sum[b]);
}

template <typename L, typename T, typename G>
inline void combine_rows(const T* plane, const PlaneTaps<G>& taps, int64_t p, G* scratch) {
  int64_t x = 0;
  for (; x + 4 * L::width <= taps.width; x += 4 * L::width) combine_block<L, 4>(plane + x, taps, p, scratch + x);
  for (; x + 2 * L::width <= taps.width; x += 2 * L::width) combine_block<L, 2>(plane + x, taps, p, scratch + x);
  for (; x < taps.width; x += L::width) combine_block<L, 1>(plane + x, taps, p, scratch + x);
}

// Rows p .. p + R - 1 of bins, from their combined rows: R sums at once hide the latency of each.
template <int R, typename T, typename G>
inline void combine_columns(const PlaneTaps<G>& taps, int64_t p, T* out, typename Lanes<G, G>::Vector& check) {
  using S = Lanes<G, G>;
  G row[S::width];
  const G* combined = taps.scratch + p * taps.width;
  for (int64_t q = 0; q < taps.padded_bins; q += S::width) {
    typename S::Vector sum[R];
    for (int r = 0; r < R; ++r) sum[r] = S::splat(G(0));
    for (int64_t x = 0; x < taps.width; ++x) {
      const auto weight = S::load_sum(taps.by_column + x * taps.padded_bins + q);
      for (int r = 0; r < R; ++r) sum[r] = madd(S::splat(combined[r * taps.width + x]), weight, sum[r]);
    }
    const int64_t count = taps.bins - q < S::width ? taps.bins - q : S::width;
    for (int r = 0; r < R; ++r) {
      check = check + (sum[r] - sum[r]);
      T* to = out + (p + r) * taps.bins + q;
      if (p + r + 1 < taps.row_bins && taps.padded_bins <= 2 * taps.bins && taps.padded_bins == S::width) {
        Lanes<T, G>::store(to, sum[r]);  // what lies beyond this row of bins is the next one's, and written after it
        continue;
      }
      S::store_sum(row, sum[r]);
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(row[i]);
    }
  }
}

template <typename T, typename G>
bool plane_gather(const T* plane, const PlaneTaps<G>& taps, T* out) {
  using S = Lanes<G, G>;
  auto check = S::splat(G(0));  // stays 0 unless a value is infinite or NaN
  for (int64_t p = 0; p < taps.row_bins; ++p) combine_rows<Lanes<T, G>>(plane, taps, p, taps.scratch + p * taps.width);
  int64_t p = 0;
  for (; p + 7 <= taps.row_bins; p += 7) combine_columns<7>(taps, p, out, check);
  for (; p < taps.row_bins; ++p) combine_columns<1>(taps, p, out, check);
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
      Lanes<G, G>::width, &gather<T, G>, &scatter<T, G>, &cell_maximum<T, G>, &point_maximum<T, G>,
      &plane_gather<T, G>, &plane_scatter<T, G>};
  return kernels;
}
