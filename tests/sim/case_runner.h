// One problem of any layout with exact values, launched as often as one likes, on whatever engine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/runtime/gpu_grouped_support.h"

namespace kiln::test {

class CaseRunner {
 public:
  CaseRunner(Gpu& gpu, const GroupedCase& test);

  // On at most so many SMs, 0: all of the engine's. What is wrong: the message of an error, or of a
  // wrong result; empty when nothing is. The first result is compared with the reference, the
  // others must have the same bits.
  std::string launch(std::int32_t num_sms);

  // FNV-1a of all of D and what surrounds it after the last launch.
  std::uint64_t result_hash() const { return hash_; }

 private:
  std::string launch_dense(std::int32_t num_sms);
  std::string launch_grouped(std::int32_t num_sms);

  Gpu& gpu_;
  GroupedCase test_;
  std::unique_ptr<GemmData> dense_;       // dense 1d2d
  std::unique_ptr<GroupedGemm> grouped_;  // everything else
  bool has_hash_ = false;
  std::uint64_t hash_ = 0;
};

}  // namespace kiln::test
