// Vectors of MASKRCNN_BYTES bytes in GCC's vector extension, for kernels.inl. MASKRCNN_FMA says whether the processor has
// fused multiply-add.

typedef float Floats __attribute__((vector_size(MASKRCNN_BYTES), may_alias));
typedef double Doubles __attribute__((vector_size(MASKRCNN_BYTES), may_alias));
typedef int32_t Integers __attribute__((vector_size(MASKRCNN_BYTES)));
typedef int64_t LongIntegers __attribute__((vector_size(MASKRCNN_BYTES)));
typedef int32_t HalfIntegers __attribute__((vector_size(MASKRCNN_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(MASKRCNN_BYTES)));
typedef uint16_t HalfWords __attribute__((vector_size(MASKRCNN_BYTES / 2)));

inline float madd(float a, float b, float c) { return MASKRCNN_FMA ? __builtin_fmaf(a, b, c) : a * b + c; }
inline double madd(double a, double b, double c) { return MASKRCNN_FMA ? __builtin_fma(a, b, c) : a * b + c; }

template <typename V, typename P>
inline V read(const P* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <typename P, typename V>
inline void write(P* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Vectors of float sums, for any type in memory.
struct FloatSums {
  static constexpr int64_t width = MASKRCNN_BYTES / 4;
  using Vector = Floats;
  using Integer = Integers;
  static Vector load_sum(const float* p) { return read<Floats>(p); }
  static void store_sum(float* p, Vector v) { write(p, v); }
  static Vector splat(float x) { return x - Floats{}; }
  static Integer splat_integer(int32_t x) { return x - Integers{}; }
  static Integer load_integer(const int32_t* p) { return read<Integers>(p); }
  static void store_integer(int32_t* p, Integer v) { write(p, v); }
  static Vector where_equal(Integer a, Integer b, Vector v) { return a == b ? v : Vector{}; }
  static void take_larger(Vector v, Integer at, Vector& best, Integer& place) {
    const Integers wins = (v > best) | (v != v);
    best = wins ? v : best;
    place = wins ? at : place;
  }
};

template <typename T, typename G>
struct Lanes;

template <>
struct Lanes<float, float> : FloatSums {
  static Vector load(const float* p) { return read<Floats>(p); }
  static void store(float* p, Vector v) { write(p, v); }
};

template <>
struct Lanes<BFloat16, float> : FloatSums {
  static Vector load(const BFloat16* p) {
    return (Floats)(__builtin_convertvector(read<HalfWords>(p), Words) << 16);
  }
  static void store(BFloat16* p, Vector v) {
    const Words bits = (Words)v;
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
    const Words nan = (Words)(v != v);
    write(p, __builtin_convertvector((nan & 0x7fc0) | (~nan & rounded), HalfWords));
  }
};

template <>
struct Lanes<Half, float> : FloatSums {
#if MASKRCNN_BYTES == 64
  static Vector load(const Half* p) { return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static void store(Half* p, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#elif MASKRCNN_BYTES == 32
  static Vector load(const Half* p) { return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static void store(Half* p, Vector v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  static Vector load(const Half* p) {
    Floats v;
    for (int i = 0; i < width; ++i) v[i] = static_cast<float>(p[i]);
    return v;
  }
  static void store(Half* p, Vector v) {
    for (int i = 0; i < width; ++i) p[i] = static_cast<Half>(v[i]);
  }
#endif
};

template <>
struct Lanes<double, double> {
  static constexpr int64_t width = MASKRCNN_BYTES / 8;
  using Vector = Doubles;
  using Integer = LongIntegers;
  static Vector load(const double* p) { return read<Doubles>(p); }
  static void store(double* p, Vector v) { write(p, v); }
  static Vector load_sum(const double* p) { return read<Doubles>(p); }
  static void store_sum(double* p, Vector v) { write(p, v); }
  static Vector splat(double x) { return x - Doubles{}; }
  static Integer splat_integer(int32_t x) { return x - LongIntegers{}; }
  static Integer load_integer(const int32_t* p) { return __builtin_convertvector(read<HalfIntegers>(p), LongIntegers); }
  static void store_integer(int32_t* p, Integer v) { write(p, __builtin_convertvector(v, HalfIntegers)); }
  static Vector where_equal(Integer a, Integer b, Vector v) { return a == b ? v : Vector{}; }
  static void take_larger(Vector v, Integer at, Vector& best, Integer& place) {
    const LongIntegers wins = (v > best) | (v != v);
    best = wins ? v : best;
    place = wins ? at : place;
  }
};

#if MASKRCNN_BYTES == 64
inline Floats madd(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline Doubles madd(Doubles a, Doubles b, Doubles c) { return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif MASKRCNN_BYTES == 32
inline Floats madd(Floats a, Floats b, Floats c) { return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline Doubles madd(Doubles a, Doubles b, Doubles c) { return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
inline Floats madd(Floats a, Floats b, Floats c) { return a * b + c; }
inline Doubles madd(Doubles a, Doubles b, Doubles c) { return a * b + c; }
#endif
