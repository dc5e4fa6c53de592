// A stand-in for libcupti: one record for each launch of the fake driver (fake_cuda.h), found through
// the loader under libcuda's name, as CUPTI finds the driver. A launch takes 0.8 ms.
//
// FAKE_CUPTI=busy makes another profiler hold CUPTI; FAKE_CUPTI=deaf makes it record nothing.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/support/fake_cuda.h"

namespace {

constexpr int kSuccess = 0;
constexpr int kMaxLimitReached = 12;
constexpr int kMultipleSubscribers = 39;
constexpr int kConcurrentKernel = 10;
constexpr int kOtherActivity = 2;

// As long as a kernel's record of CUDA 13 is. One of another kind comes between, as it may.
struct Record {
  std::int32_t kind;
  char head[12];
  std::uint64_t begin_ns, end_ns;
  char tail[176];
};
static_assert(offsetof(Record, begin_ns) == 16);

using Requested = void (*)(std::uint8_t**, std::size_t*, std::size_t*);
using Completed = void (*)(CUcontext, std::uint32_t, std::uint8_t*, std::size_t, std::size_t);

Requested requested = nullptr;
Completed completed = nullptr;
bool enabled = false;
std::uint64_t delivered = 0;

bool told(const char* what) {
  const char* const value = std::getenv("FAKE_CUPTI");
  return value != nullptr && std::string(value) == what;
}

std::uint64_t launches() {
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (driver == nullptr) return 0;
  using State = kiln::test::FakeCuda* (*)();
  const auto state = reinterpret_cast<State>(dlsym(driver, "kiln_fake_cuda_state"));
  const std::uint64_t count = state != nullptr ? state()->launches.load() : 0;
  dlclose(driver);
  return count;
}

Record record_of(int kind, std::uint64_t launch) {
  Record record{};
  record.kind = kind;
  record.begin_ns = (launch + 1) * 1'000'000;
  record.end_ns = record.begin_ns + 800'000;
  return record;
}

}  // namespace

extern "C" {

int cuptiActivityRegisterCallbacks(Requested on_requested, Completed on_completed) {
  if (told("busy")) return kMultipleSubscribers;
  requested = on_requested;
  completed = on_completed;
  return kSuccess;
}

int cuptiActivityEnable(int kind) {
  enabled = kind == kConcurrentKernel;
  delivered = launches();
  return kSuccess;
}

int cuptiActivityDisable(int) {
  enabled = false;
  return kSuccess;
}

int cuptiActivityFlushAll(std::uint32_t) {
  const std::uint64_t now = launches();
  while (enabled && !told("deaf") && delivered < now) {
    std::uint8_t* buffer = nullptr;
    std::size_t bytes = 0, most_records = 0, used = 0;
    requested(&buffer, &bytes, &most_records);
    const auto append = [&](const Record& record) {
      std::memcpy(buffer + used, &record, sizeof(record));
      used += sizeof(record);
    };
    append(record_of(kOtherActivity, delivered));
    // The later ones first: records are in no order.
    const std::uint64_t fit = std::min<std::uint64_t>(now - delivered, 100);
    for (std::uint64_t i = fit; i > 0; --i)
      append(record_of(kConcurrentKernel, delivered + i - 1));
    delivered += fit;
    completed(nullptr, 0, buffer, bytes, used);
  }
  return kSuccess;
}

int cuptiActivityGetNextRecord(std::uint8_t* buffer, std::size_t valid, std::uint8_t** record) {
  std::uint8_t* const next = *record == nullptr ? buffer : *record + sizeof(Record);
  if (next >= buffer + valid) return kMaxLimitReached;
  *record = next;
  return kSuccess;
}

int cuptiGetResultString(int result, const char** text) {
  *text = result == kMultipleSubscribers ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED" : "?";
  return kSuccess;
}

}  // extern "C"
