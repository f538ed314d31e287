// ONNX's test data: every input_*.pb and output_*.pb is one TensorProto. These lines read what ONNX's own
// numpy_helper writes (sizes, type, name and raw data), compare, and print.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace test_data {

enum Type { FLOAT = 1, INT32 = 6, INT64 = 7, BOOL = 9, FLOAT16 = 10, DOUBLE = 11, BFLOAT16 = 16 };  // ONNX's numbers

struct Tensor {
  std::string name, bytes;
  std::vector<std::int64_t> sizes;
  int type = 0;
};

inline std::size_t bytes_of(int type) {
  switch (type) {
    case FLOAT: case INT32: return 4;
    case INT64: case DOUBLE: return 8;
    case BOOL: return 1;
    case FLOAT16: case BFLOAT16: return 2;
    default: throw std::runtime_error("got ONNX type " + std::to_string(type) + ", expected a number or a truth");
  }
}

inline std::int64_t count(const std::vector<std::int64_t>& sizes) {
  std::int64_t all = 1;
  for (const std::int64_t size : sizes) all *= size;
  return all;
}

// Protobuf: a field is a number and a kind, then a varint (kind 0) or a length and so many bytes (kind 2).
class Message {
 public:
  explicit Message(const std::string& bytes) : bytes_(bytes) {}

  bool ended() const { return at_ == bytes_.size(); }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw std::runtime_error("no TensorProto");
  }

  std::string take(std::uint64_t length) {
    if (length > bytes_.size() - at_) throw std::runtime_error("no TensorProto, or one that was cut off");
    at_ += length;
    return bytes_.substr(at_ - length, length);
  }

 private:
  const std::string& bytes_;
  std::size_t at_ = 0;
};

inline Tensor parse(const std::string& bytes) {
  Tensor tensor;
  Message message(bytes);
  while (!message.ended()) {
    const std::uint64_t key = message.varint(), field = key >> 3, kind = key & 7;
    if (kind != 0 && kind != 2) throw std::runtime_error("no TensorProto with raw data");
    const std::uint64_t value = message.varint();  // or the length of what follows
    const std::string text = kind == 2 ? message.take(value) : std::string();
    if (field == 1 && kind == 0) tensor.sizes.push_back(static_cast<std::int64_t>(value));
    if (field == 1 && kind == 2)
      for (Message sizes(text); !sizes.ended();) tensor.sizes.push_back(static_cast<std::int64_t>(sizes.varint()));
    if (field == 2) tensor.type = static_cast<int>(value);
    if (field == 8) tensor.name = text;
    if (field == 9) tensor.bytes = text;
  }
  const auto expected = count(tensor.sizes) * bytes_of(tensor.type);
  if (tensor.bytes.size() != expected)
    throw std::runtime_error("got " + std::to_string(tensor.bytes.size()) + " bytes of raw data, expected " +
                             std::to_string(expected));
  return tensor;
}

// The tensors of `kind` in a folder, "input" or "output", in order.
inline std::vector<Tensor> read(const std::filesystem::path& folder, const std::string& kind) {
  std::vector<Tensor> tensors;
  for (;;) {
    const auto path = folder / (kind + "_" + std::to_string(tensors.size()) + ".pb");
    if (!std::filesystem::exists(path)) {
      if (tensors.empty()) throw std::runtime_error(path.string() + ": there is no such file");
      return tensors;
    }
    std::ifstream file(path, std::ios::binary);
    try {
      tensors.push_back(parse({std::istreambuf_iterator<char>(file), {}}));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(path.string() + ": " + error.what());
    }
  }
}

// The test data of a file: its own where it has some, or else what its folder has.
inline std::filesystem::path beside(const std::filesystem::path& file) {
  const auto suffix = file.extension().string();
  const auto own = file.stem().string() + "_" + suffix.substr(suffix.empty() ? 0 : 1) + "_test_data_set_0";
  const auto folder = file.parent_path() / own;
  return std::filesystem::is_directory(folder) ? folder : file.parent_path() / "test_data_set_0";
}

// What 16 bits mean, `digits` of them the mantissa and the others but one the exponent.
inline double half(std::uint16_t bits, int digits) {
  const int most = (1 << (15 - digits)) - 1, bias = most / 2;
  const int mantissa = bits & ((1 << digits) - 1), exponent = (bits & 0x7fff) >> digits;
  const double size = exponent == most ? (mantissa ? NAN : HUGE_VAL)
                      : exponent ? std::ldexp((1 << digits) + mantissa, exponent - bias - digits)
                                 : std::ldexp(mantissa, 1 - bias - digits);
  return bits >> 15 ? -size : size;
}

inline double number(int type, const char* bytes, std::int64_t i) {
  auto as = [&](auto value) {
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    return static_cast<double>(value);
  };
  switch (type) {
    case FLOAT: return as(float());
    case DOUBLE: return as(double());
    case INT32: return as(std::int32_t());
    case INT64: return as(std::int64_t());
    case FLOAT16: return half(static_cast<std::uint16_t>(as(std::uint16_t())), 10);
    case BFLOAT16: return half(static_cast<std::uint16_t>(as(std::uint16_t())), 7);
    default: return as(char());
  }
}

// Prints an output and its largest difference from the expected one; whether that is as good as none.
inline bool report(const Tensor& expected, const std::vector<std::int64_t>& sizes, int type, const void* got) {
  if (sizes != expected.sizes || type != expected.type)
    throw std::runtime_error(expected.name + ": got another shape or type than the test data have");
  const std::int64_t all = count(sizes), shown = std::min<std::int64_t>(all, 8);
  double largest = 0, difference = 0;
  std::cout << expected.name << " =";
  for (std::int64_t i = 0; i < all; ++i) {
    const double value = number(type, static_cast<const char*>(got), i);
    const double wanted = number(type, expected.bytes.data(), i);
    if (i < shown) std::cout << " " << value;
    if (std::isfinite(wanted)) largest = std::max(largest, std::abs(wanted));
    if (value == wanted || (std::isnan(value) && std::isnan(wanted))) continue;
    const double off = std::abs(value - wanted);
    difference = std::isnan(off) ? HUGE_VAL : std::max(difference, off);
  }
  std::cout << (shown < all ? " ..." : "") << ", largest difference " << difference << "\n";
  const double place = type == FLOAT16 ? 0x1p-10 : type == BFLOAT16 ? 0x1p-7 : 2e-5;  // of 16 bits the last
  return difference <= place * std::max(1.0, largest);
}

// Writes what was computed beside the other outputs of `folder`, where there is one, as a TensorProto too.
inline void write(const std::filesystem::path& folder, std::size_t i, const Tensor& expected, const void* got) {
  if (folder.empty()) return;
  std::string bytes;
  auto varint = [&](std::uint64_t value) {
    for (; value > 127; value >>= 7) bytes += static_cast<char>(value | 128);
    bytes += static_cast<char>(value);
  };
  auto text = [&](int field, const std::string& content) {
    varint(field << 3 | 2), varint(content.size());
    bytes += content;
  };
  for (const std::int64_t size : expected.sizes) varint(1 << 3), varint(size);
  varint(2 << 3), varint(expected.type);
  text(8, expected.name);
  text(9, {static_cast<const char*>(got), count(expected.sizes) * bytes_of(expected.type)});
  std::ofstream(folder / ("output_" + std::to_string(i) + ".pb"), std::ios::binary) << bytes;
}

// The folder that `--write FOLDER` names at the end of the arguments, which lose it.
inline std::filesystem::path folder_to_write(int& count, char** arguments) {
  if (count < 3 || std::string(arguments[count - 2]) != "--write") return {};
  count -= 2;
  return arguments[count + 1];
}

}  // namespace test_data
