// Rows of scores in memory, of 64, 32 or 16 bits, for one instruction set.
//
// Scores of 16 bits are widened to float as they are read, a piece of a row at a time that stays in the
// nearest cache, and gradients are narrowed as they are written.
#pragma once

#include <algorithm>
#include <limits>

#include "lattice.h"
#include "wide.h"
#ifdef __F16C__
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 of what its own header leaves undefined on purpose
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

// One copy for all loops that call it: pieces are long.
#ifdef __GNUC__
#define EXPORTABLE_LOSSES_ONE_COPY __attribute__((noinline))
#else
#define EXPORTABLE_LOSSES_ONE_COPY
#endif

namespace exportable_losses {
namespace ISA {

inline float widened(float x) { return x; }
inline double widened(double x) { return x; }
inline float widened(bfloat16 x) { return bits_as<float>(std::uint32_t(x.bits) << 16); }

inline float widened(float16 x) {
#ifdef __aarch64__
  __fp16 half;  // which no function may return
  std::memcpy(&half, &x.bits, sizeof half);
  return half;
#else
  const std::uint32_t magnitude = std::uint32_t(x.bits & 0x7fff) << 13, sign = std::uint32_t(x.bits & 0x8000) << 16;
  const std::uint32_t rebased = magnitude + (112u << 23);
  const float subnormal = bits_as<float>(rebased + (1u << 23)) - 6.103515625e-5f;  // 2^-14
  const std::uint32_t infinite = magnitude + (224u << 23);
  const std::uint32_t bits = magnitude < (1u << 23)    ? bits_as<std::uint32_t>(subnormal)
                             : magnitude >= (31u << 23) ? infinite
                                                        : rebased;
  return bits_as<float>(bits | sign);
#endif
}

inline void narrow_to(float x, float& to) { to = x; }
inline void narrow_to(double x, double& to) { to = x; }

// To the nearest, of two the even; a NaN stays one.
inline void narrow_to(float x, bfloat16& to) {
  const auto bits = bits_as<std::uint32_t>(x);
  const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  to.bits = static_cast<std::uint16_t>((x != x ? bits | 0x400000 : rounded) >> 16);
}

inline void narrow_to(float x, float16& to) {
#ifdef __aarch64__
  const auto half = static_cast<__fp16>(x);
  std::memcpy(&to.bits, &half, sizeof half);
#else
  const auto bits = bits_as<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
  const std::uint32_t subnormal = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - (126u << 23);
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const std::uint32_t infinite = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  to.bits = static_cast<std::uint16_t>(
      sign | (magnitude >= (143u << 23) ? infinite : magnitude < (113u << 23) ? subnormal : normal));
#endif
}

template <class Score>
EXPORTABLE_LOSSES_ONE_COPY void widen(const Score* from, std::int64_t n, float* to) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) to[i] = widened(from[i]);
}

template <class Score>
EXPORTABLE_LOSSES_ONE_COPY void narrow(const float* from, std::int64_t n, Score* to) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) narrow_to(from[i], to[i]);
}

#ifdef __F16C__
EXPORTABLE_LOSSES_ONE_COPY inline void widen(const float16* from, std::int64_t n, float* to) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  for (; i < n; ++i) to[i] = widened(from[i]);
}

EXPORTABLE_LOSSES_ONE_COPY inline void narrow(const float* from, std::int64_t n, float16* to) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) narrow_to(from[i], to[i]);
}
#endif

#ifdef __AVX512BW__
EXPORTABLE_LOSSES_ONE_COPY inline void narrow(const float* from, std::int64_t n, bfloat16* to) {
  auto rounded = [](__m512i bits) {
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512 x = _mm512_castsi512_ps(bits);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(quiet, 16));
  };
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), rounded(_mm512_loadu_si512(from + i)));
  const __mmask16 rest = (__mmask16(1) << (n - i)) - 1;
  _mm256_mask_storeu_epi16(to + i, rest, rounded(_mm512_maskz_loadu_epi32(rest, from + i)));
}
#endif

constexpr std::int64_t piece = 512;  // scores that are widened at once

// Calls of(first, n, scores) for each piece of a row.
template <class Real, class Of>
inline void for_pieces(const Real* row, std::int64_t n, const Of& of) {
  of(std::int64_t(0), n, row);
}
template <class Score, class Of>
inline void for_widened_pieces(const Score* row, std::int64_t n, const Of& of) {
  float wide[piece];
  for (std::int64_t first = 0; first < n; first += piece) {
    const std::int64_t size = std::min(piece, n - first);
    widen(row + first, size, wide);
    of(first, size, wide);
  }
}
template <class Of>
inline void for_pieces(const bfloat16* row, std::int64_t n, const Of& of) {
  for_widened_pieces(row, n, of);
}
template <class Of>
inline void for_pieces(const float16* row, std::int64_t n, const Of& of) {
  for_widened_pieces(row, n, of);
}

template <class Real>
inline Real row_max_of(const Real* x, std::int64_t n) {
  const Real least = -std::numeric_limits<Real>::infinity();
  const std::int64_t quarter = n / 4;
  Real a = least, b = least, c = least, d = least;  // four, since each waits for its own last maximum
#pragma omp simd reduction(max : a, b, c, d)
  for (std::int64_t i = 0; i < quarter; ++i) {
    a = x[i] > a ? x[i] : a;
    b = x[i + quarter] > b ? x[i + quarter] : b;
    c = x[i + 2 * quarter] > c ? x[i + 2 * quarter] : c;
    d = x[i + 3 * quarter] > d ? x[i + 3 * quarter] : d;
  }
  for (std::int64_t i = 4 * quarter; i < n; ++i) a = x[i] > a ? x[i] : a;
  return std::max(std::max(a, b), std::max(c, d));
}

template <class Real>
inline Real row_sum_exp_of(const Real* x, std::int64_t n, Real top) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += exp_in_sum(x[i] - top);
  return sum;
}

// The largest of a row; of one with a NaN anything.
template <class Score>
EXPORTABLE_LOSSES_ONE_COPY Computed<Score> row_max(const Score* x, std::int64_t n) {
  using Real = Computed<Score>;
  Real top = -std::numeric_limits<Real>::infinity();
  for_pieces(x, n, [&](std::int64_t, std::int64_t size, const Real* wide) { top = std::max(top, row_max_of(wide, size)); });
  return top;
}

// The sum of exp(x - top).
template <class Score>
EXPORTABLE_LOSSES_ONE_COPY Computed<Score> row_sum_exp(const Score* x, std::int64_t n, Computed<Score> top) {
  using Real = Computed<Score>;
  Real sum = 0;
  for_pieces(x, n, [&](std::int64_t, std::int64_t size, const Real* wide) { sum += row_sum_exp_of(wide, size, top); });
  return sum;
}

// scale * exp(x - top), which must not be far above zero; exactly zero where it is far below or nothing beside one.
template <class Score>
inline void row_slopes(const Score* x, std::int64_t n, Computed<Score> top, Computed<Score> scale, Computed<Score>* to) {
  using Real = Computed<Score>;
  for_pieces(x, n, [&](std::int64_t first, std::int64_t size, const Real* wide) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < size; ++i) {
      const Real slope = scale * exp_negative(wide[i] - top);
      to[first + i] = std::abs(slope) < least_share<Real> ? Real(0) : slope;  // a NaN stays one
    }
  });
}

// Whether each is below infinity, and none a NaN.
template <class Score>
EXPORTABLE_LOSSES_ONE_COPY bool row_is_bounded(const Score* x, std::int64_t n) {
  using Real = Computed<Score>;
  std::int32_t wrong = 0;
  for_pieces(x, n, [&](std::int64_t, std::int64_t size, const Real* wide) {
#pragma omp simd reduction(| : wrong)
    for (std::int64_t i = 0; i < size; ++i) wrong |= !(wide[i] < std::numeric_limits<Real>::infinity());
  });
  return wrong == 0;
}

// Has the row fetched while the one before it is computed.
template <class Score>
inline void prefetch_row(const Score* x, std::int64_t n) {
  constexpr std::int64_t line = 64 / sizeof(Score);
  for (std::int64_t i = 0; i < n; i += line) prefetch(x + i);
}

}  // namespace ISA
}  // namespace exportable_losses

#ifdef __AVX512BW__
#include "rows_avx512.inc.h"
#endif

namespace exportable_losses {
namespace ISA {

// The largest of some logits, and the sum of their exponentials without it.
template <class Real>
struct Normaliser {
  Real top, sum;
};

// Of a row but for class `without`, which may be -1.
template <class Score>
Normaliser<Computed<Score>> normaliser(const Score* row, std::int64_t n, std::int64_t without) {
  if (without == n - 1) return normaliser(row, without, -1);
  const std::int64_t before = std::max(without, std::int64_t(0)), rest = n - without - 1;
  const Score* behind = row + without + 1;
  Computed<Score> top = row_max(behind, rest);
  if (before == 0) return {top, row_sum_exp(behind, rest, top)};
  top = std::max(top, row_max(row, before));
  return {top, row_sum_exp(behind, rest, top) + row_sum_exp(row, before, top)};
}

// What a recursion asks of rows whose type it does not know, so that there is one copy of it for all types.
template <class Real>
struct Access {
  std::int64_t bytes;  // of a score
  Real (*at)(const void* row, std::int64_t c);
  // The scores of some classes; those of `next` are asked for.
  void (*pick)(const void* row, const void* next, const std::int64_t* classes, std::int64_t n, Real* to);
  void (*fill)(void* row, std::int64_t n, Real value);
  Normaliser<Real> (*normaliser)(const void* row, std::int64_t n, std::int64_t without);  // -1: of all
  bool (*bounded)(const void* row, std::int64_t n);
  void (*prefetch)(const void* row, std::int64_t n);
  void (*slopes)(const void* row, std::int64_t n, Real top, Real scale, Real* to);  // scale * exp(x - top)
  void (*narrow)(const Real* from, std::int64_t n, void* row);                      // null where scores are Real
};

template <class Score>
void pick(const Score* y, const Score* next, const std::int64_t* classes, std::int64_t n, Computed<Score>* to) {
  if constexpr (std::is_same<Score, Computed<Score>>::value) {
    for (std::int64_t i = 0; i < n; ++i) {
      to[i] = y[classes[i]];
      prefetch(next + classes[i]);
    }
  } else {
    constexpr std::int64_t most = 64;
    Score picked[most];
    for (std::int64_t first = 0; first < n; first += most) {
      const std::int64_t size = std::min(most, n - first);
      for (std::int64_t i = 0; i < size; ++i) {
        picked[i] = y[classes[first + i]];
        prefetch(next + classes[first + i]);
      }
      widen(picked, size, to + first);
    }
  }
}

template <class Score>
const Access<Computed<Score>>& access_to() {
  using Real = Computed<Score>;
  static constexpr Access<Real> access = [] {
    Access<Real> to{};
    to.bytes = sizeof(Score);
    to.at = [](const void* row, std::int64_t c) { return widened(static_cast<const Score*>(row)[c]); };
    to.pick = [](const void* row, const void* next, const std::int64_t* classes, std::int64_t n, Real* picked) {
      pick(static_cast<const Score*>(row), static_cast<const Score*>(next), classes, n, picked);
    };
    to.fill = [](void* row, std::int64_t n, Real value) {
      Score score;
      narrow_to(value, score);
      std::fill_n(static_cast<Score*>(row), n, score);
    };
    to.normaliser = [](const void* row, std::int64_t n, std::int64_t without) {
      return ISA::normaliser(static_cast<const Score*>(row), n, without);
    };
    to.bounded = [](const void* row, std::int64_t n) { return row_is_bounded(static_cast<const Score*>(row), n); };
    to.prefetch = [](const void* row, std::int64_t n) { prefetch_row(static_cast<const Score*>(row), n); };
    to.slopes = [](const void* row, std::int64_t n, Real top, Real scale, Real* slopes) {
      row_slopes(static_cast<const Score*>(row), n, top, scale, slopes);
    };
    if constexpr (!std::is_same<Score, Real>::value)
      to.narrow = [](const Real* wide, std::int64_t n, void* row) { narrow(wide, n, static_cast<Score*>(row)); };
    return to;
  }();
  return access;
}

}  // namespace ISA
}  // namespace exportable_losses
