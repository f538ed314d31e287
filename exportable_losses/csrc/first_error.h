// What went wrong first in a loop of several threads, to be thrown again in the thread that called it.
#pragma once

#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

namespace exportable_losses {

// Keeps what the exception says. A std::exception_ptr would keep the exception itself, and ask for a libstdc++
// that is newer than the oldest which the wheels are for (CXXABI_1.3.13, of GCC 11).
class FirstError {
 public:
  // In a catch block, of any of the threads.
  void keep() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kind_ != Kind::none) return;
    kind_ = Kind::memory;  // also where there is none for what it says
    try {
      throw;
    } catch (const std::bad_alloc&) {
    } catch (const std::length_error&) {  // more than a vector holds
    } catch (const std::exception& error) {
      say(error.what());
    } catch (...) {
      say("an unknown error");
    }
  }

  // After the loop.
  void rethrow() const {
    if (kind_ == Kind::memory) throw std::bad_alloc();
    if (kind_ == Kind::other) throw std::runtime_error(what_);
  }

 private:
  enum class Kind { none, memory, other };

  void say(const char* what) noexcept {
    try {
      what_ = what;
      kind_ = Kind::other;
    } catch (const std::bad_alloc&) {
    }
  }

  std::mutex mutex_;
  Kind kind_ = Kind::none;
  std::string what_;
};

}  // namespace exportable_losses
