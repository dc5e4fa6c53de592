// A stand-in for libcuda.so.1: a shared library with the calls that Kiln makes, no GPU behind it.
//
// Device memory is host memory, work is done at once and kernels do nothing but be recorded; nor do
// memsets of 256 MiB and more, which only flush L2. What the machine offers and which calls fail is
// set through fake_cuda(), a symbol of the library itself. Cubins are those of FakeCompiler. The
// bookkeeping of a launch neither allocates nor locks, so that a test can measure the caller.
#pragma once

#include <cuda.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

namespace kiln::test {

struct FakeDevice {
  const char* name = "Fake H200";
  int major = 9, minor = 0;
  int num_sms = 132;
};

// One launch as the driver saw it.
struct FakeLaunch {
  unsigned grid_x, grid_y, grid_z, threads, smem_bytes;
  unsigned cluster_x;  // 0: no cluster attribute
  bool programmatic;
  CUstream stream;
  CUcontext context;
  char kernel[256];
  unsigned param_bytes;
  std::array<unsigned char, 32768> params;  // what CUDA lets a kernel have, and more
};

struct FakeTensorMap {  // what cuTensorMapEncodeTiled was told, stored in the map itself
  std::uint64_t address;
  std::uint64_t extents[3];  // columns, rows, slices; a 2-D map has no slices
  std::uint64_t stride_bytes, slice_stride_bytes;
  std::uint32_t box[3];
  std::uint8_t type, swizzle, promotion, rank, fill;
};

struct FakeCuda {
  // The machine.
  int device_count = 1;
  std::array<FakeDevice, 4> devices{};
  int driver_version = 13000;
  CUresult init_result = CUDA_SUCCESS;

  // Faults. A call with a result other than CUDA_SUCCESS here fails and does nothing.
  CUresult load_result = CUDA_SUCCESS;
  CUresult launch_result = CUDA_SUCCESS;
  CUresult encode_result = CUDA_SUCCESS;
  CUresult push_result = CUDA_SUCCESS;
  std::atomic<int> failing_loads{0};  // so many loads fail with CUDA_ERROR_INVALID_IMAGE
  int extra_registers = 0;            // reported above what the cubin has
  // So many of a million calls fail at random with CUDA_ERROR_OUT_OF_MEMORY or CUDA_ERROR_UNKNOWN:
  // those that load, encode, launch, retain, push or look at devices, kernels and captures; not
  // those that undo something.
  std::atomic<std::uint32_t> faults_per_million{0};

  // Captures. `capturing` is the one stream being captured (null: none). While any is, loading and
  // unloading on a thread that is not in relaxed mode fails and invalidates the capture.
  std::atomic<CUstream> capturing{nullptr};
  std::atomic<bool> capture_is_blocking{false};  // the legacy stream then answers "implicit"
  std::atomic<bool> capture_invalidated{false};

  // Records.
  std::atomic<int> loaded_libraries{0};   // now
  std::atomic<int> retained_contexts{0};  // now
  std::atomic<int> loads_in_wrong_context{0};
  std::atomic<std::uint64_t> launches{0};
  FakeLaunch last_launch{};              // of launches at the same time, one
  std::array<FakeLaunch, 16> history{};  // launch i is at i % 16, if launches do not overlap

  int calls(std::string_view name) const;  // by original name, e.g. "cuMemFree"
  int calls() const;                       // all together
  void reset();                            // everything above as at the start, and all counts

  struct Counter {
    std::atomic<const char*> name{nullptr};
    std::atomic<int> count{0};
  };
  std::array<Counter, 64> counters{};
};

// What one thread did and what befell it. Its launches are recorded whatever other threads launch.
struct FakeThread {
  CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::uint64_t launches = 0;
  FakeLaunch last_launch{};
  std::uint64_t faults = 0;  // injected into its calls
  const char* last_fault = "";
  bool is_spared = false;    // no faults for now
  std::uint64_t random = 1;  // what decides about faults; set it to a seed
};

// The context that the fake gives a device's primary context, and any other context.
CUcontext fake_primary_context(int device);
CUcontext fake_other_context(int index);

// Opens the library (KILN_FAKE_CUDA of the build) and gives its control block, the same each time.
FakeCuda& fake_cuda();
const char* fake_cuda_path();

FakeThread& fake_thread();  // of the calling thread

// The current context of this thread, and how many are below it and itself; not counted as calls.
CUcontext fake_current_context();
std::size_t fake_context_depth();
void fake_set_current_context(CUcontext context);

}  // namespace kiln::test
