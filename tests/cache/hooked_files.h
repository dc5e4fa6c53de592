// A table of system calls that tells a test before and after each of them, and lets it decide.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "cache/files.h"

namespace kiln::cache::test {

// One system call as a hook sees it. Of a call with two names, `path` is the first.
struct Call {
  std::string_view name;  // "openat"
  int fd = -1;            // the descriptor or directory that it works on, -1 when it has none
  int flags = 0;          // of openat(); the operation of flock()
  const char* path = "";
  const char* second_path = "";  // linkat(), renameat()
  int second_fd = -1;
};

// Both return 0, or an errno. Before: then the call is not made and fails so. After: it was made,
// and is reported as failed all the same.
struct CallHook {
  virtual ~CallHook() = default;
  virtual int before(const Call&) { return 0; }
  virtual int after(const Call&, bool /*succeeded*/) { return 0; }
};

// The hook of this process; null: the calls go through. Change it only while no cache is in use.
inline CallHook* call_hook = nullptr;

namespace hooked {

template <typename Tuple, typename T, std::size_t kSkip = 0, std::size_t kAt = 0>
constexpr T nth(const Tuple& args, T otherwise) {
  if constexpr (kAt >= std::tuple_size_v<Tuple>) {
    return otherwise;
  } else if constexpr (std::is_same_v<std::tuple_element_t<kAt, Tuple>, T>) {
    if constexpr (kSkip == 0) {
      return std::get<kAt>(args);
    } else {
      return nth<Tuple, T, kSkip - 1, kAt + 1>(args, otherwise);
    }
  } else {
    return nth<Tuple, T, kSkip, kAt + 1>(args, otherwise);
  }
}

// What a system call returns that fails with `error`.
template <class R>
R failed_call(int error) {
  errno = error;
  if constexpr (std::is_pointer_v<R>) {
    return nullptr;
  } else {
    return -1;
  }
}

template <auto Member>
struct Hooked;

template <typename R, typename... Args, R (*Files::*Member)(Args...)>
struct Hooked<Member> {
  template <auto Other>
  static constexpr bool kIs = std::is_same_v<Hooked, Hooked<Other>>;
  static constexpr bool kCloses = kIs<&Files::close> || kIs<&Files::closedir>;

  static constexpr std::string_view name() {
    if (kIs<&Files::openat>) return "openat";
    if (kIs<&Files::close>) return "close";
    if (kIs<&Files::pread>) return "pread";
    if (kIs<&Files::write>) return "write";
    if (kIs<&Files::fsync>) return "fsync";
    if (kIs<&Files::fstat>) return "fstat";
    if (kIs<&Files::fstatat>) return "fstatat";
    if (kIs<&Files::fchmod>) return "fchmod";
    if (kIs<&Files::mkdirat>) return "mkdirat";
    if (kIs<&Files::linkat>) return "linkat";
    if (kIs<&Files::renameat>) return "renameat";
    if (kIs<&Files::unlinkat>) return "unlinkat";
    if (kIs<&Files::flock>) return "flock";
    return "other";
  }

  static Call describe(const std::tuple<Args...>& args) {
    Call call;
    call.name = name();
    call.fd = nth<std::tuple<Args...>, int>(args, -1);
    if constexpr (kIs<&Files::openat> || kIs<&Files::flock>) {
      call.flags = nth<std::tuple<Args...>, int, 1>(args, 0);
    }
    call.path = nth<std::tuple<Args...>, const char*>(args, "");
    if constexpr (kIs<&Files::linkat> || kIs<&Files::renameat>) {
      call.second_path = nth<std::tuple<Args...>, const char*, 1>(args, "");
      call.second_fd = nth<std::tuple<Args...>, int, 1>(args, -1);
    }
    return call;
  }

  static bool succeeded(R result) {
    if constexpr (std::is_pointer_v<R>) {
      return result != nullptr;
    } else {
      return result >= 0;
    }
  }

  static R call(Args... args) {
    const auto real = real_files().*Member;
    if (call_hook == nullptr) return real(args...);
    const Call call = describe(std::tuple<Args...>(args...));
    if (const int error = call_hook->before(call)) {
      if constexpr (kCloses) real(args...);  // as on Linux: the descriptor is gone
      return failed_call<R>(error);
    }
    errno = 0;
    const R result = real(args...);
    const int real_error = errno;
    const int error = call_hook->after(call, succeeded(result));
    // A stream that is open cannot fail to have been opened: nobody would close it.
    if (error != 0 && !kIs<&Files::fdopendir>) {
      if constexpr (kIs<&Files::openat>) {
        if (result >= 0) real_files().close(result);
      }
      return failed_call<R>(error);
    }
    errno = real_error;
    return result;
  }
};

}  // namespace hooked

inline const Files& hooked_files() {
  using hooked::Hooked;
  static constexpr Files kTable = {
      .openat = Hooked<&Files::openat>::call,
      .close = Hooked<&Files::close>::call,
      .pread = Hooked<&Files::pread>::call,
      .write = Hooked<&Files::write>::call,
      .fsync = Hooked<&Files::fsync>::call,
      .fstat = Hooked<&Files::fstat>::call,
      .fstatat = Hooked<&Files::fstatat>::call,
      .fstatfs = Hooked<&Files::fstatfs>::call,
      .faccessat = Hooked<&Files::faccessat>::call,
      .fchmod = Hooked<&Files::fchmod>::call,
      .fchmodat = Hooked<&Files::fchmodat>::call,
      .futimens = Hooked<&Files::futimens>::call,
      .utimensat = Hooked<&Files::utimensat>::call,
      .mkdirat = Hooked<&Files::mkdirat>::call,
      .linkat = Hooked<&Files::linkat>::call,
      .renameat = Hooked<&Files::renameat>::call,
      .unlinkat = Hooked<&Files::unlinkat>::call,
      .readlinkat = Hooked<&Files::readlinkat>::call,
      .flock = Hooked<&Files::flock>::call,
      .getrandom = Hooked<&Files::getrandom>::call,
      .getcwd = Hooked<&Files::getcwd>::call,
      .fdopendir = Hooked<&Files::fdopendir>::call,
      .readdir = Hooked<&Files::readdir>::call,
      .closedir = Hooked<&Files::closedir>::call,
  };
  return kTable;
}

}  // namespace kiln::cache::test
