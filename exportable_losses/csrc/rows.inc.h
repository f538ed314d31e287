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
inline Computed<Score> row_max(const Score* x, std::int64_t n) {
  using Real = Computed<Score>;
  Real top = -std::numeric_limits<Real>::infinity();
  for_pieces(x, n, [&](std::int64_t, std::int64_t size, const Real* wide) { top = std::max(top, row_max_of(wide, size)); });
  return top;
}

// The sum of exp(x - top).
template <class Score>
inline Computed<Score> row_sum_exp(const Score* x, std::int64_t n, Computed<Score> top) {
  using Real = Computed<Score>;
  Real sum = 0;
  for_pieces(x, n, [&](std::int64_t, std::int64_t size, const Real* wide) { sum += row_sum_exp_of(wide, size, top); });
  return sum;
}

// scale * exp(x - top), which must not be far above zero; exactly zero where it is far below.
template <class Score>
inline void row_slopes(const Score* x, std::int64_t n, Computed<Score> top, Computed<Score> scale, Computed<Score>* to) {
  for_pieces(x, n, [&](std::int64_t first, std::int64_t size, const Computed<Score>* wide) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < size; ++i) to[first + i] = scale * exp_negative(wide[i] - top);
  });
}

// Has the row fetched while the one before it is computed.
template <class Score>
inline void prefetch_row(const Score* x, std::int64_t n) {
  constexpr std::int64_t line = 64 / sizeof(Score);
  for (std::int64_t i = 0; i < n; i += line) prefetch(x + i);
}

#ifdef __AVX512BW__
// Halves in the order of their numbers: as integers, with all but the sign of negative ones turned over. It is
// its own inverse.
inline __m512i in_order(__m512i halves) {
  return _mm512_ternarylogic_epi32(halves, _mm512_srai_epi16(halves, 15), _mm512_set1_epi16(0x7fff), 0x78);
}

template <class Half>
inline float half_max(const Half* x, std::int64_t n) {
  const __m512i least = _mm512_set1_epi16(-0x8000);
  __m512i a = least, b = least;
  std::int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    a = _mm512_max_epi16(a, in_order(_mm512_loadu_si512(x + i)));
    b = _mm512_max_epi16(b, in_order(_mm512_loadu_si512(x + i + 32)));
  }
  for (; i < n; i += 32) {
    const __mmask32 some = n - i >= 32 ? ~__mmask32(0) : (__mmask32(1) << (n - i)) - 1;
    b = _mm512_max_epi16(b, _mm512_mask_blend_epi16(some, least, in_order(_mm512_maskz_loadu_epi16(some, x + i))));
  }
  a = _mm512_max_epi16(a, b);
  const __m256i c = _mm256_max_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  const __m128i d = _mm_max_epi16(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
  const __m128i downwards = _mm_minpos_epu16(_mm_sub_epi16(_mm_set1_epi16(0x7fff), d));
  const auto key = static_cast<std::int16_t>(0x7fff - _mm_extract_epi16(downwards, 0));
  return widened(Half{static_cast<std::uint16_t>(key ^ ((key >> 15) & 0x7fff))});
}

inline float row_max(const bfloat16* x, std::int64_t n) { return half_max(x, n); }
inline float row_max(const float16* x, std::int64_t n) { return half_max(x, n); }

// Thirty-two halves as floats, in any order.
inline void widen_32(__m512i halves, bfloat16, __m512& a, __m512& b) {
  a = _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
  b = _mm512_castsi512_ps(_mm512_and_si512(halves, _mm512_set1_epi32(-0x10000)));
}
inline void widen_32(__m512i halves, float16, __m512& a, __m512& b) {
  a = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
  b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
}

inline __m512 widen_16(__m256i halves, bfloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 widen_16(__m256i halves, float16) { return _mm512_cvtph_ps(halves); }

// The bits of 2^(k / 32), less k where a float has the last bits of its exponent and the first of its fraction:
// added to n + k / 32 in those places they give 2^(n + k / 32).
alignas(64) constexpr std::int32_t powers_of_two[32] = {
    1065353216, 1065274759, 1065200323, 1065129999, 1065063874, 1065002042, 1064944595, 1064891632,
    1064843248, 1064799546, 1064760626, 1064726595, 1064697559, 1064673627, 1064654911, 1064641526,
    1064633587, 1064631215, 1064634532, 1064643661, 1064658730, 1064679870, 1064707212, 1064740894,
    1064781053, 1064827832, 1064881375, 1064941831, 1065009351, 1065084090, 1065166205, 1065255859};

// exp(x) for x from -86.6, below which it is no normal number, to 88. With the powers in a table a polynomial of degree
// 2 is off by 5e-8 of the value, which is nothing beside what 16 bits have lost.
inline __m512 exp_of_halves(__m512 x) {
  const __m512 log2e = _mm512_set1_ps(1.4426950408889634f), magic = _mm512_set1_ps(393216.0f);  // 1.5 * 2^18
  const __m512 y = _mm512_fmadd_ps(x, log2e, magic);
  const __m512 r = _mm512_fmsub_ps(x, log2e, _mm512_sub_ps(y, magic));
  const __m512i n = _mm512_castps_si512(y);
  const __m512i low = _mm512_load_si512(powers_of_two), high = _mm512_load_si512(powers_of_two + 16);
  const __m512i power = _mm512_add_epi32(_mm512_permutex2var_epi32(low, n, high), _mm512_slli_epi32(n, 18));
  __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.24022651f), _mm512_set1_ps(0.69315734f));
  p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(1.0f));
  return _mm512_mul_ps(p, _mm512_castsi512_ps(power));
}
inline __m512 least_exponent() { return _mm512_set1_ps(-86.6f); }

template <class Half>
inline float half_sum_exp(const Half* x, std::int64_t n, float top) {
  const __m512 by = _mm512_set1_ps(top);
  const __m512i nothing = _mm512_set1_epi16(std::is_same<Half, bfloat16>::value ? 0xff80 : 0xfc00);
  __m512 sum_a = _mm512_setzero_ps(), sum_b = sum_a;
  auto add = [&](__m512i halves) {
    __m512 a, b;
    widen_32(halves, Half(), a, b);
    a = _mm512_max_ps(least_exponent(), _mm512_sub_ps(a, by));  // a NaN stays one
    b = _mm512_max_ps(least_exponent(), _mm512_sub_ps(b, by));
    sum_a = _mm512_add_ps(sum_a, exp_of_halves(a));
    sum_b = _mm512_add_ps(sum_b, exp_of_halves(b));
  };
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) add(_mm512_loadu_si512(x + i));
  if (i < n) add(_mm512_mask_loadu_epi16(nothing, (__mmask32(1) << (n - i)) - 1, x + i));
  return _mm512_reduce_add_ps(_mm512_add_ps(sum_a, sum_b));
}

template <class Half>
inline void half_slopes(const Half* x, std::int64_t n, float top, float scale, float* to) {
  const __m512 by = _mm512_set1_ps(top), times = _mm512_set1_ps(scale), most = _mm512_set1_ps(88.3f);
  auto slopes = [&](__m256i halves) {
    const __m512 below = _mm512_min_ps(most, _mm512_sub_ps(widen_16(halves, Half()), by));  // a NaN stays one
    const __mmask16 counts = _mm512_cmp_ps_mask(below, least_exponent(), _CMP_NLT_UQ);
    return _mm512_mul_ps(times, _mm512_maskz_mov_ps(counts, exp_of_halves(below)));
  };
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(to + i, slopes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  const __mmask16 rest = (__mmask16(1) << (n - i)) - 1;
  _mm512_mask_storeu_ps(to + i, rest, slopes(_mm256_maskz_loadu_epi16(rest, x + i)));
}

inline float row_sum_exp(const bfloat16* x, std::int64_t n, float top) { return half_sum_exp(x, n, top); }
inline float row_sum_exp(const float16* x, std::int64_t n, float top) { return half_sum_exp(x, n, top); }
inline void row_slopes(const bfloat16* x, std::int64_t n, float top, float scale, float* to) {
  half_slopes(x, n, top, scale, to);
}
inline void row_slopes(const float16* x, std::int64_t n, float top, float scale, float* to) {
  half_slopes(x, n, top, scale, to);
}
#endif

// The largest of some logits, and the sum of their exponentials without it.
template <class Real>
struct Normaliser {
  Real top, sum;
};

template <class Score>
EXPORTABLE_LOSSES_ONE_COPY Normaliser<Computed<Score>> normaliser(const Score* row, std::int64_t n) {
  const Computed<Score> top = row_max(row, n);
  return {top, row_sum_exp(row, n, top)};
}

// Of all but class c.
template <class Score>
Normaliser<Computed<Score>> normaliser_without(const Score* row, std::int64_t n, std::int64_t c) {
  if (c == 0) return normaliser(row + 1, n - 1);
  const auto before = normaliser(row, c);
  if (c == n - 1) return before;
  const auto behind = normaliser(row + c + 1, n - c - 1);
  const Computed<Score> top = std::max(before.top, behind.top);
  return {top, before.sum * exp_negative(before.top - top) + behind.sum * exp_negative(behind.top - top)};
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
      const auto* scores = static_cast<const Score*>(row);
      return without < 0 ? ISA::normaliser(scores, n) : normaliser_without(scores, n, without);
    };
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
