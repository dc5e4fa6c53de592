// cuBLASLt as a comparison: opened at run time, never needed.
//
// It computes what Kiln computes on the same A and B into the same D, with scales of its own that
// are all 1 and lie as its documentation asks. So its time is comparable, and its D is not: who
// checks D does so before. Dense only, since it has no FP8 product over groups that the device
// knows. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/device_memory.h"
#include "runtime/kiln.h"
#include "tools/measure.h"
#include "tools/workload.h"

namespace kiln::tools {

// block_wise  the scaling of the problem: 1x128 and 128x128 blocks, or 1x128 for both; since 12.9
// per_tensor  one scale for each operand, and fast accumulation: the ceiling, of another problem
enum class LtScaling : std::uint8_t { kBlockWise, kPerTensor };
std::string_view name(LtScaling value);  // "cublaslt_block", "cublaslt_tensor"

// Either a launch, or the reason why there is none.
struct LtOffer {
  Launch launch;
  std::string reason;
};

class CublasLt {
 public:
  // Null when there is no usable library; `reason` then says why. `device` must outlive it.
  static std::unique_ptr<CublasLt> open(const runtime::Device& device, std::string& reason);
  virtual ~CublasLt() = default;

  virtual std::string version() const = 0;  // "13.1.0"
  virtual const std::string& path() const = 0;

  // The algorithm that the library's own heuristics put first. The launch must not outlive this
  // nor the memory of `operands`. Throws Error for want of memory or of the driver only.
  virtual LtOffer offer(const Workload& workload, const kiln_operands& operands,
                        LtScaling scaling) = 0;
};

}  // namespace kiln::tools
