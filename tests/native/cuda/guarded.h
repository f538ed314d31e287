// What the tests of the emulated kernels draw, and arrays that nobody reads or writes beyond.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>

namespace {

int failures = 0;

using Random = std::mt19937_64;

int64_t between(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Memory of `count` values that ends, or begins, at a page that must not be touched; `lead` values away
// from it, for addresses of every alignment.
template <class T>
class Guarded {
 public:
  Guarded(size_t count, bool at_end, T value, size_t lead = 0) : count_(count) {
    const size_t page = sysconf(_SC_PAGESIZE), bytes = (count + lead) * sizeof(T);
    const size_t inside = (bytes + page - 1) / page * page;
    size_ = inside + 2 * page;
    memory_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED) abort();
    if (inside > 0 && mprotect(memory_ + page, inside, PROT_READ | PROT_WRITE) != 0) abort();
    data_ = reinterpret_cast<T*>(memory_ + page + (at_end ? inside - bytes : 0)) + (at_end ? 0 : lead);
    std::fill(data_, data_ + count, value);
  }
  ~Guarded() { munmap(memory_, size_); }
  Guarded(const Guarded&) = delete;
  T* get() { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  size_t size() const { return count_; }

 private:
  size_t count_, size_;
  char* memory_;
  T* data_;
};

}  // namespace
