// What a driver says of a Hopper GPU that is none: the simulator's, and the tests' fake one.
#pragma once

#include "runtime/driver.h"

namespace kiln_sim {

// The value of a device attribute; 1 for those that nobody here decides by.
inline int hopper_attribute(CUdevice_attribute which, int major, int minor, int num_sms) {
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return minor;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return num_sms;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return 232448;
    default:
      return 1;
  }
}

}  // namespace kiln_sim
