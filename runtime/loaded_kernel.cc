#include "runtime/loaded_kernel.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <utility>

namespace kiln::runtime {
namespace {

// Errors that say something about the image and nothing about the machine's state.
bool blames_image(CUresult result) {
  switch (result) {
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_INVALID_SOURCE:
    case CUDA_ERROR_NOT_FOUND:
    case CUDA_ERROR_INVALID_PTX:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION: return true;
    default: return false;
  }
}

void check_image(const Driver& driver, const cache::Entry& entry, CUresult result,
                 const char* call) {
  if (result == CUDA_SUCCESS) return;
  if (!blames_image(result)) driver.check(result, call);
  throw BadCubin(
      Status::kDriverError,
      fmt::format(
          "{} of {} failed: {}: the driver is for CUDA {}.{}, the kernel was compiled by NVRTC "
          "{}.{}; update the driver, or choose an NVRTC of the driver's major version",
          call, entry.description, driver.error_text(result), driver.version() / 1000,
          driver.version() % 1000 / 10, entry.compiler_version >> 16,
          entry.compiler_version & 0xffff));
}

}  // namespace

KernelInfo describe_entry(const cache::Entry& entry, bool from_disk) {
  KernelInfo info;
  info.key = cache::to_hex(entry.key);
  info.from_disk = from_disk;
  info.registers = static_cast<int>(entry.registers);
  info.spill_bytes = static_cast<int>(entry.spill_store_bytes + entry.spill_load_bytes);
  info.stack_bytes = static_cast<int>(entry.stack_bytes);
  info.static_smem_bytes = static_cast<int>(entry.static_smem_bytes);
  info.cubin_bytes = static_cast<std::int64_t>(entry.cubin.size());
  info.compile_ms = entry.compile_us / 1e3;
  info.launch.threads = static_cast<std::int32_t>(entry.threads);
  info.launch.cluster = static_cast<std::int32_t>(entry.cluster);
  info.launch.dynamic_smem_bytes = static_cast<std::int64_t>(entry.dynamic_smem_bytes);
  info.launch.param_bytes = static_cast<std::int32_t>(entry.param_bytes);
  return info;
}

LoadedKernel LoadedKernel::load(const Device& device, const cache::Entry& entry, KernelInfo info) {
  const auto begin = std::chrono::steady_clock::now();
  const ContextScope scope(device.driver(), device.context());
  const RelaxedCapture relaxed(device.driver());
  LoadedKernel kernel(device, std::move(info));
  kernel.open(entry);
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - begin;
  kernel.info_.load_ms += elapsed.count();
  return kernel;
}

void LoadedKernel::open(const cache::Entry& entry) {
  const Driver& driver = device_->driver();
  check_image(driver, entry,
              driver.cuLibraryLoadData(&library_, entry.cubin.data(), nullptr, nullptr, 0, nullptr,
                                       nullptr, 0),
              "cuLibraryLoadData");
  CUkernel kernel = nullptr;
  check_image(driver, entry,
              driver.cuLibraryGetKernel(&kernel, library_, entry.kernel_name.c_str()),
              "cuLibraryGetKernel");
  check_image(driver, entry, driver.cuKernelGetFunction(&function_, kernel), "cuKernelGetFunction");
  if (driver.cuFuncLoad != nullptr) {
    check_image(driver, entry, driver.cuFuncLoad(function_), "cuFuncLoad");
  }
  compare_with(entry, kernel);
  if (entry.dynamic_smem_bytes > 0) {
    driver.check(
        driver.cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                  static_cast<int>(entry.dynamic_smem_bytes)),
        "cuFuncSetAttribute");
  }
}

void LoadedKernel::compare_with(const cache::Entry& entry, CUkernel kernel) const {
  const Driver& driver = device_->driver();
  const auto expect = [&](const char* what, std::int64_t recorded, std::int64_t loaded) {
    if (recorded == loaded) return;
    throw BadCubin(
        Status::kDriverError,
        fmt::format("the kernel that was loaded for {} has {} {}, its cache entry {} says {}: "
                    "the entry does not belong to this cubin",
                    entry.description, loaded, what, cache::to_hex(entry.key), recorded));
  };
  const auto attribute = [&](CUfunction_attribute which) {
    int value = 0;
    driver.check(driver.cuFuncGetAttribute(&value, which, function_), "cuFuncGetAttribute");
    return value;
  };
  expect("registers", entry.registers, attribute(CU_FUNC_ATTRIBUTE_NUM_REGS));
  expect("bytes of static shared memory", entry.static_smem_bytes,
         attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES));
  if (attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) < static_cast<int>(entry.threads)) {
    expect("threads at most", entry.threads, attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
  }
  if (driver.cuKernelGetParamInfo == nullptr) return;
  std::size_t offset = 0;
  std::size_t bytes = 0;
  check_image(driver, entry, driver.cuKernelGetParamInfo(kernel, 0, &offset, &bytes),
              "cuKernelGetParamInfo");
  expect("bytes of parameters", entry.param_bytes, static_cast<std::int64_t>(bytes));
}

LoadedKernel::LoadedKernel(LoadedKernel&& other) noexcept
    : device_(other.device_),
      library_(std::exchange(other.library_, nullptr)),
      function_(std::exchange(other.function_, nullptr)),
      info_(std::move(other.info_)) {}

LoadedKernel::~LoadedKernel() {
  if (library_ == nullptr) return;
  try {
    const ContextScope scope(device_->driver(), device_->context());
    const RelaxedCapture relaxed(device_->driver());
    device_->driver().cuLibraryUnload(library_);
  } catch (const Error&) {  // the driver is shutting down, and the module goes with it
  }
}

void LoadedKernel::launch_grid(std::uint32_t grid_x, std::uint32_t grid_y, const void* params,
                               CUstream stream, LaunchOptions options) const {
  std::array<CUlaunchAttribute, 2> attributes;
  unsigned count = 0;
  if (info_.launch.cluster > 1) {
    CUlaunchAttribute& cluster = attributes[count++];
    cluster.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    cluster.value.clusterDim.x = static_cast<unsigned>(info_.launch.cluster);
    cluster.value.clusterDim.y = 1;
    cluster.value.clusterDim.z = 1;
  }
  if (options.programmatic) {
    CUlaunchAttribute& programmatic = attributes[count++];
    programmatic.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    programmatic.value.programmaticStreamSerializationAllowed = 1;
  }
  CUlaunchConfig config{};
  config.gridDimX = grid_x;
  config.gridDimY = grid_y;
  config.gridDimZ = 1;
  config.blockDimX = static_cast<unsigned>(info_.launch.threads);
  config.blockDimY = 1;
  config.blockDimZ = 1;
  config.sharedMemBytes = static_cast<unsigned>(info_.launch.dynamic_smem_bytes);
  config.hStream = stream;
  config.attrs = attributes.data();
  config.numAttrs = count;
  void* arguments[] = {const_cast<void*>(params)};  // the driver only reads them
  const Driver& driver = device_->driver();
  driver.check(driver.cuLaunchKernelEx(&config, function_, arguments, nullptr), "cuLaunchKernelEx");
}

}  // namespace kiln::runtime
