// Numbers of unbounded range: mantissa * 2^exponent, the exponent a float of its own.
//
// A path through a lattice has a probability far below the smallest float, so recursions are
// commonly run on logarithms, at three exponentials and a logarithm a cell. A mantissa with its own
// exponent takes none of them, and keeps all bits of the mantissa where a logarithm of -5000
// has lost twelve to its integer part.
//
// Every function is a few branch-free operations on scalars, so that a loop over cells becomes
// vector code. Compiled once for each instruction set, in a namespace of its own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace exportable_losses {
namespace ISA {

inline void prefetch(const void* memory) {
#ifdef __GNUC__
  __builtin_prefetch(memory);
#else
  (void)memory;
#endif
}

template <class Real>
struct Format;

template <>
struct Format<float> {
  using Bits = std::int32_t;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};

template <>
struct Format<double> {
  using Bits = std::int64_t;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
};

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class Real>
constexpr Real lowest() {
  return std::numeric_limits<Real>::lowest() / 64;  // the exponent of zero; dozens of them still add up
}

// Smaller parts of one are nothing (2^-100 in float). Whoever multiplies a gradient of numbers near the smallest normal
// one gets others below it, each of which takes an Intel core some 150 cycles: a batch's products of matrices took five
// times as long.
template <class Real>
constexpr Real least_share = std::numeric_limits<Real>::min() * Real(1 << 26);

// exp(r) for |r| <= ln(2) / 2. In float a minimax polynomial, off by 4e-9 of the value; in double Taylor's.
inline float exp_near_zero(float r) {
  float p = 1.3814539416e-3f;
  p = p * r + 8.3687454462e-3f;
  p = p * r + 4.1668388993e-2f;
  p = p * r + 1.6666521132e-1f;
  p = p * r + 4.9999994040e-1f;
  p = p * r + 1.0f;
  return p * r + 1.0f;
}

inline double exp_near_zero(double r) {
  double p = 1.0 / 6227020800.0;
  const double inverse_factorials[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                                       1.0 / 40320,     1.0 / 5040,     1.0 / 720,     1.0 / 120,
                                       1.0 / 24,        1.0 / 6,        0.5};
  for (double c : inverse_factorials) p = p * r + c;
  return p * r * r + r + 1.0;
}

// 2^n for an integral n, at most the format's largest exponent; zero below its range. The sum with the
// magic number leaves n + bias in the lowest bits, and the shift drops the others.
template <class Real>
inline Real scale(Real n) {
  using F = Format<Real>;
  const Real clamped = n > -Real(F::bias) ? n : -Real(F::bias);
  const auto bits = bits_as<std::make_unsigned_t<typename F::Bits>>(clamped + (F::round_magic + Real(F::bias)));
  return bits_as<Real>(bits << F::mantissa_bits);
}

template <class Real>
struct Wide {
  Real mantissa, exponent;
};

// The same number with a mantissa in [1, 2), or zero.
template <class Real>
inline Wide<Real> normalised(Real mantissa, Real exponent) {
  using F = Format<Real>;
  using Bits = typename F::Bits;
  const Bits bits = bits_as<Bits>(mantissa);
  const Real shift = Real((bits >> F::mantissa_bits) - F::bias);
  const Real one_to_two =
      bits_as<Real>(static_cast<Bits>((bits & ((Bits(1) << F::mantissa_bits) - 1)) | (Bits(F::bias) << F::mantissa_bits)));
  const bool zero = mantissa < std::numeric_limits<Real>::min() || exponent <= lowest<Real>();
  if (mantissa != mantissa) return {mantissa, Real(0)};  // a NaN stays one
  return {zero ? Real(0) : one_to_two, zero ? lowest<Real>() : exponent + shift};
}

// exp(x); x may be -inf. Of what no probability has as its logarithm, +inf and beyond what fits, it is a NaN.
template <class Real>
inline Wide<Real> exp_wide(Real x) {
  using F = Format<Real>;
  const Real scaled = x * Real(1.4426950408889634074);
  const Real rounded = (scaled + F::round_magic) - F::round_magic;
  const Real n = std::abs(scaled) < F::round_magic / 4 ? rounded : scaled;  // beyond, there is no fraction
  const Real r = (x - n * F::ln2_high) - n * F::ln2_low;
  const bool zero = x <= lowest<Real>();
  const bool exact = !(std::abs(scaled) >= F::round_magic / 4);
  const Real one = scaled - scaled + Real(1);  // of infinity a NaN
  return {zero ? Real(0) : exact ? exp_near_zero(r) : one, zero ? lowest<Real>() : n};
}

// exp(x) as a plain number, for x <= 0: zero where it underflows. A NaN stays one.
template <class Real>
inline Real exp_negative(Real x) {
  using F = Format<Real>;
  const Real least = -Real(F::bias - 1) * Real(0.69314718055994530942), most = Real(F::bias);
  const Real n = (x * Real(1.4426950408889634074) + F::round_magic) - F::round_magic;
  const Real r = (x - n * F::ln2_high) - n * F::ln2_low;
  const Real value = exp_near_zero(r) * scale(n < most ? n : most);
  return x < least ? Real(0) : value;
}

// The same for sums in which the smallest normal number counts for nothing: it stands for all below it.
template <class Real>
inline Real exp_in_sum(Real x) {
  using F = Format<Real>;
  const Real least = -Real(F::bias - 1) * Real(0.69314718055994530942);
  const Real clamped = x < least ? least : x;
  const Real n = (clamped * Real(1.4426950408889634074) + F::round_magic) - F::round_magic;
  const Real r = clamped - n * Real(0.69314718055994530942);
  const auto bits = bits_as<std::make_unsigned_t<typename F::Bits>>(n + (F::round_magic + Real(F::bias)));
  return exp_near_zero(r) * bits_as<Real>(bits << F::mantissa_bits);
}

template <class Real>
inline Wide<Real> add(Wide<Real> a, Wide<Real> b) {
  const Real top = a.exponent > b.exponent ? a.exponent : b.exponent;
  return {a.mantissa * scale(a.exponent - top) + b.mantissa * scale(b.exponent - top), top};
}

// Products and sums of a few numbers need no normalising in between: a mantissa has room for some
// thirty factors of 10. A recursion does it every sixteenth step.
template <class Real, bool normalise = true>
inline Wide<Real> multiply(Wide<Real> a, Wide<Real> b) {
  const Wide<Real> product = {a.mantissa * b.mantissa, a.exponent + b.exponent};
  return normalise ? normalised(product.mantissa, product.exponent) : product;
}

// 1 / x for a positive x.
template <class Real>
inline Wide<Real> inverse(Wide<Real> x) {
  return {Real(1) / x.mantissa, -x.exponent};
}

// a * b as a plain number, for what is a probability; zero where that is nothing.
template <class Real>
inline Real share(Wide<Real> a, Wide<Real> b) {
  const Real exponent = a.exponent + b.exponent, most = Real(Format<Real>::bias);
  const Real plain = a.mantissa * b.mantissa * scale(exponent < most ? exponent : most);
  return plain < least_share<Real> ? Real(0) : plain;  // a NaN stays one
}

// log(x / y) for a y above zero.
template <class Real>
inline double log_ratio(Wide<Real> x, Wide<Real> y) {
  if (!(x.mantissa > 0)) return x.mantissa == x.mantissa ? -std::numeric_limits<double>::infinity() : double(x.mantissa);
  return (double(x.exponent) - double(y.exponent)) * 0.69314718055994530942 +
         (std::log(double(x.mantissa)) - std::log(double(y.mantissa)));
}

// The sum of a pair, a number and what it has been rounded by, and x: Knuth's. `to` may be the pair.
template <class Real>
inline void add_exactly(const Real* pair, double x, Real* to) {
  Real high = pair[0], low = pair[1];
  for (const Real part : {Real(x), Real(x - double(Real(x)))}) {
    const Real total = high + part, added = total - high;
    low += (high - (total - added)) + (part - added);
    high = total;
  }
  to[0] = high, to[1] = low;
}

// The larger of two normalised numbers, a NaN of all.
template <class Real>
inline Wide<Real> larger(Wide<Real> x, Wide<Real> y) {
  const bool more = y.exponent > x.exponent || (y.exponent == x.exponent && y.mantissa > x.mantissa);
  return (more && x.mantissa == x.mantissa) || y.mantissa != y.mantissa ? y : x;
}

template <class Real>
inline Real minus_log(Wide<Real> x) {
  if (std::isnan(x.mantissa)) return x.mantissa;
  if (!(x.mantissa > 0)) return std::numeric_limits<Real>::infinity();
  return Real(-(double(x.exponent) * 0.69314718055994530942 + std::log(double(x.mantissa))));
}

}  // namespace ISA
}  // namespace exportable_losses
