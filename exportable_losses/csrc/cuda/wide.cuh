// Numbers of unbounded range on the device: mantissa * 2^exponent. See ../wide.h for why.
//
// The same numbers as the CPU's, in the operations that a GPU has: its own exponentials, and no
// conversion between integers and floats, which would be slow and stand on the critical path.
#pragma once

#include <cuda_runtime.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../lattice.h"

namespace exportable_losses {
namespace on_device {

template <class Real>
struct Format;

template <>
struct Format<float> {
  using Bits = int32_t;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float two_to_bits = 8388608.0f;  // 2^23: the floats from here on are the integers
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float lowest = -FLT_MAX / 4;  // the exponent of zero; two of them still add up
  static constexpr float least = FLT_MIN;
};

template <>
struct Format<double> {
  using Bits = int64_t;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double two_to_bits = 4503599627370496.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double lowest = -DBL_MAX / 4;
  static constexpr double least = DBL_MIN;
};

template <class To, class From>
__device__ inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

__device__ inline float widened(float x) { return x; }
__device__ inline double widened(double x) { return x; }
__device__ inline float widened(bfloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }
__device__ inline float widened(float16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13, sign = (x.bits & 0x8000u) << 16;
  const float subnormal = bits_as<float>(magnitude + (113u << 23)) - 6.103515625e-5f;  // 2^-14
  const bool infinite = magnitude >= (31u << 23);
  const uint32_t normal = magnitude + ((infinite ? 224u : 112u) << 23);
  return bits_as<float>(sign | (magnitude < (1u << 23) ? bits_as<uint32_t>(subnormal) : normal));
}

// To the nearest, of two the even; a NaN stays one.
__device__ inline void narrow_to(float& to, float x) { to = x; }
__device__ inline void narrow_to(double& to, double x) { to = x; }
__device__ inline void narrow_to(bfloat16& to, float x) {
  const uint32_t bits = bits_as<uint32_t>(x), rounded = bits + 0x7fff + ((bits >> 16) & 1);
  to.bits = static_cast<uint16_t>((x == x ? rounded : bits | 0x400000) >> 16);
}
__device__ inline void narrow_to(float16& to, float x) {
  const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7fffffff;
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - (126u << 23);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const uint32_t infinite = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const uint32_t half = magnitude >= (143u << 23) ? infinite : magnitude < (113u << 23) ? subnormal : normal;
  to.bits = static_cast<uint16_t>(half | (bits >> 16 & 0x8000));
}

__device__ inline float exp_of(float x) { return exp2f(x * 1.44269504088896340736f); }
__device__ inline double exp_of(double x) { return exp(x); }

// 2^n for an integral n <= 0; zero below the range.
template <class Real>
__device__ inline Real power_of_two(Real n) {
  using F = Format<Real>;
  using Bits = typename F::Bits;
  const Real biased = fmax(n + Real(F::bias), Real(0));
  const Bits bits = bits_as<Bits>(biased + F::two_to_bits);  // the number stands in the lowest bits
  return bits_as<Real>(static_cast<Bits>(static_cast<uint64_t>(bits) << F::mantissa_bits));
}

// Loaded and stored in one go.
template <class Real>
struct alignas(2 * sizeof(Real)) Wide {
  Real mantissa, exponent;
};

template <class Real>
__device__ inline Wide<Real> zero() {
  return {Real(0), Format<Real>::lowest};
}
template <class Real>
__device__ inline Wide<Real> one() {
  return {Real(1), Real(0)};
}
template <class Real>
__device__ inline Wide<Real> one_if(bool condition) {
  return condition ? one<Real>() : zero<Real>();
}

// The same number with a mantissa in [1, 2), or zero; a NaN stays one, whatever its exponent.
template <class Real>
__device__ inline Wide<Real> normalised(Real mantissa, Real exponent) {
  using F = Format<Real>;
  using Bits = typename F::Bits;
  const Bits bits = bits_as<Bits>(mantissa), fraction = (Bits(1) << F::mantissa_bits) - 1;
  const Bits field = (bits >> F::mantissa_bits) | bits_as<Bits>(Real(F::two_to_bits));
  const Real shift = bits_as<Real>(field) - (F::two_to_bits + Real(F::bias));
  const Real one_to_two = bits_as<Real>(static_cast<Bits>((bits & fraction) | (Bits(F::bias) << F::mantissa_bits)));
  const bool is_zero = mantissa < F::least || exponent <= F::lowest;
  const Real kept = is_zero ? Real(0) : one_to_two;
  return {mantissa == mantissa ? kept : mantissa, is_zero ? Real(F::lowest) : exponent + shift};
}

// exp(x); x may be -inf. Of +inf it is a NaN.
template <class Real>
__device__ inline Wide<Real> exp_wide(Real x) {
  using F = Format<Real>;
  const Real n = rint(x * Real(1.4426950408889634074));
  const Real r = (x - n * F::ln2_high) - n * F::ln2_low;
  const bool whole = fabs(n) >= F::two_to_bits / 4;  // beyond, there is no fraction
  if (x <= F::lowest) return zero<Real>();
  return {whole ? Real(1) + (n - n) : exp_of(r), n};
}

template <class Real>
__device__ inline Wide<Real> add(Wide<Real> a, Wide<Real> b) {
  const Real top = fmax(a.exponent, b.exponent);
  return {a.mantissa * power_of_two(a.exponent - top) + b.mantissa * power_of_two(b.exponent - top), top};
}

template <class Real>
__device__ inline Wide<Real> multiply(Wide<Real> a, Wide<Real> b) {
  return normalised(a.mantissa * b.mantissa, a.exponent + b.exponent);
}

// a * b / c as a plain number, for what is a probability; zero where it underflows.
template <class Real>
__device__ inline Real share(Wide<Real> a, Wide<Real> b, Wide<Real> c) {
  const Real exponent = (a.exponent - c.exponent) + b.exponent;
  const Real small = exponent < Real(1) ? exponent - Real(2) : Real(-1);
  return a.mantissa * b.mantissa / c.mantissa * power_of_two(small) * Real(4);
}

template <class Real>
__device__ inline Real minus_log(Wide<Real> x) {
  if (x.mantissa != x.mantissa) return x.mantissa;
  if (!(x.mantissa > 0)) return Real(INFINITY);
  return Real(-(double(x.exponent) * 0.69314718055994530942 + log(double(x.mantissa))));
}

}  // namespace on_device
}  // namespace exportable_losses
