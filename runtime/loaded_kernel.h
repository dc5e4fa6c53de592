// A cubin that is loaded into one context and ready to launch.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "cache/entry.h"
#include "jit/source.h"
#include "runtime/driver.h"

namespace kiln::runtime {

// What is known of a kernel once its cubin was found or made.
struct KernelInfo {
  std::string key;         // hex of the cache key
  bool from_disk = false;  // a hit; otherwise compiled by this engine
  std::string miss_reason; // why it was compiled, in words
  int registers = 0;       // per thread at launch
  int spill_bytes = 0;     // stores and loads together
  int stack_bytes = 0;
  int static_smem_bytes = 0;
  std::int64_t cubin_bytes = 0;
  double compile_ms = 0;  // of the compile that made the cubin, whenever that was
  double load_ms = 0;     // reading it from disk and loading it, 0 without a device
  jit::LaunchShape launch;
};
KernelInfo describe_entry(const cache::Entry& entry, bool from_disk);

// The driver refused a cubin, or what it loaded disagrees with the entry: the entry is to blame.
class BadCubin : public Error {
 public:
  using Error::Error;
};

struct LaunchOptions {
  bool programmatic = false;  // programmatic dependent launch
};

// Move-only owner of a CUlibrary. Immutable after load(), so launch() is thread-safe.
class LoadedKernel {
 public:
  // Loads from memory, resolves the function of this context at once (lazy loading would touch the
  // driver inside a stream capture), allows its dynamic shared memory, and compares the entry with
  // the driver's view. A capture on this thread is not disturbed. Throws BadCubin, or
  // Error{kDriverError} for anything that is not the entry's fault.
  static LoadedKernel load(const Device& device, const cache::Entry& entry, KernelInfo info);
  LoadedKernel(LoadedKernel&& other) noexcept;
  LoadedKernel& operator=(LoadedKernel&&) = delete;
  ~LoadedKernel();

  // Enqueues `num_ctas` CTAs along x (a multiple of the cluster size). `params` points to the
  // kernel's one parameter struct and is copied before the call returns. No allocation, no lock.
  // The context of the device must be current. Throws Error{kDriverError}.
  void launch(std::uint32_t num_ctas, const void* params, CUstream stream,
              LaunchOptions options = {}) const {
    launch_grid(num_ctas, 1, params, stream, options);
  }
  void launch_grid(std::uint32_t grid_x, std::uint32_t grid_y, const void* params, CUstream stream,
                   LaunchOptions options = {}) const;

  const KernelInfo& info() const { return info_; }
  CUfunction function() const { return function_; }

 private:
  LoadedKernel(const Device& device, KernelInfo info) : device_(&device), info_(std::move(info)) {}
  void open(const cache::Entry& entry);
  void compare_with(const cache::Entry& entry, CUkernel kernel) const;

  const Device* device_;
  CUlibrary library_ = nullptr;
  CUfunction function_ = nullptr;
  KernelInfo info_;
};

}  // namespace kiln::runtime
