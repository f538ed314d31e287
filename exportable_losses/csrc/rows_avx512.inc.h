// Rows of scores where there are 512 bits: what rows.inc.h says of floats and of halves, of any length without a remainder.
#pragma once

#include <cmath>

#include "rows.inc.h"

namespace exportable_losses {
namespace ISA {

// Calls of(i, mask) for each sixteen numbers of a row, the last of them masked.
template <class Of>
inline void for_sixteens(std::int64_t n, const Of& of) {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) of(i, __mmask16(0xffff));
  if (i < n) of(i, __mmask16((1u << (n - i)) - 1));
}

EXPORTABLE_LOSSES_ONE_COPY inline float row_max(const float* x, std::int64_t n) {
  const __m512 least = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 a = least, b = least, c = least, d = least;  // four, since each waits for its own last maximum
  std::int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    a = _mm512_max_ps(a, _mm512_loadu_ps(x + i));
    b = _mm512_max_ps(b, _mm512_loadu_ps(x + i + 16));
    c = _mm512_max_ps(c, _mm512_loadu_ps(x + i + 32));
    d = _mm512_max_ps(d, _mm512_loadu_ps(x + i + 48));
  }
  for_sixteens(n - i, [&](std::int64_t k, __mmask16 mask) { a = _mm512_mask_max_ps(a, mask, a, _mm512_maskz_loadu_ps(mask, x + i + k)); });
  return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
}

// The smallest normal float is e to this; below it, exponentials are that of it, or masked out. A NaN stays one.
inline __m512 least_exponent_of_floats() { return _mm512_set1_ps(-126 * 0.69314718055994530942f); }

// exp(x), x at least that: `exp_near_zero` of what is left of a power of two.
inline __m512 exp_of_floats(__m512 x) {
  using F = Format<float>;
  const __m512 magic = _mm512_set1_ps(F::round_magic);
  const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(1.4426950408889634074f), magic), magic);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(F::ln2_low), _mm512_fnmadd_ps(n, _mm512_set1_ps(F::ln2_high), x));
  __m512 p = _mm512_set1_ps(1.3814539416e-3f);
  for (const float c : {8.3687454462e-3f, 4.1668388993e-2f, 1.6666521132e-1f, 4.9999994040e-1f, 1.0f, 1.0f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

EXPORTABLE_LOSSES_ONE_COPY inline float row_sum_exp(const float* x, std::int64_t n, float top) {
  const __m512 by = _mm512_set1_ps(top);
  const auto exponentials = [&](__m512 scores) {
    return exp_of_floats(_mm512_max_ps(least_exponent_of_floats(), _mm512_sub_ps(scores, by)));
  };
  __m512 a = _mm512_setzero_ps(), b = a;
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    a = _mm512_add_ps(a, exponentials(_mm512_loadu_ps(x + i)));
    b = _mm512_add_ps(b, exponentials(_mm512_loadu_ps(x + i + 16)));
  }
  for_sixteens(n - i, [&](std::int64_t k, __mmask16 mask) {
    a = _mm512_mask_add_ps(a, mask, a, exponentials(_mm512_maskz_loadu_ps(mask, x + i + k)));
  });
  return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}

// Slopes, and zero where they are nothing beside one. A NaN stays one.
inline __m512 that_count(__m512 slopes) {
  const __m512 least = _mm512_set1_ps(least_share<float>);
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(slopes), least, _CMP_NLT_UQ), slopes);
}

EXPORTABLE_LOSSES_ONE_COPY inline void row_slopes(const float* x, std::int64_t n, float top, float scale, float* to) {
  const __m512 by = _mm512_set1_ps(top), times = _mm512_set1_ps(scale), most = _mm512_set1_ps(88.0f);
  for_sixteens(n, [&](std::int64_t i, __mmask16 mask) {
    const __m512 below = _mm512_min_ps(most, _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), by));
    const __mmask16 counts = _mm512_cmp_ps_mask(below, least_exponent_of_floats(), _CMP_NLT_UQ);
    const __m512 slopes = _mm512_mul_ps(times, _mm512_maskz_mov_ps(counts, exp_of_floats(below)));
    _mm512_mask_storeu_ps(to + i, mask, that_count(slopes));
  });
}

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

EXPORTABLE_LOSSES_ONE_COPY inline float row_max(const bfloat16* x, std::int64_t n) { return half_max(x, n); }
EXPORTABLE_LOSSES_ONE_COPY inline float row_max(const float16* x, std::int64_t n) { return half_max(x, n); }

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
    return that_count(_mm512_mul_ps(times, _mm512_maskz_mov_ps(counts, exp_of_halves(below))));
  };
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(to + i, slopes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  const __mmask16 rest = (__mmask16(1) << (n - i)) - 1;
  _mm512_mask_storeu_ps(to + i, rest, slopes(_mm256_maskz_loadu_epi16(rest, x + i)));
}

EXPORTABLE_LOSSES_ONE_COPY inline float row_sum_exp(const bfloat16* x, std::int64_t n, float top) { return half_sum_exp(x, n, top); }
EXPORTABLE_LOSSES_ONE_COPY inline float row_sum_exp(const float16* x, std::int64_t n, float top) { return half_sum_exp(x, n, top); }
inline void row_slopes(const bfloat16* x, std::int64_t n, float top, float scale, float* to) {
  half_slopes(x, n, top, scale, to);
}
inline void row_slopes(const float16* x, std::int64_t n, float top, float scale, float* to) {
  half_slopes(x, n, top, scale, to);
}

}  // namespace ISA
}  // namespace exportable_losses
