#include "runtime/probe.h"

#include <fmt/format.h>

#include "runtime/c_struct.h"

namespace kiln::runtime {
namespace {

void probe_compiler(const jit::NvrtcSearch& search, const EngineHooks& hooks,
                    kiln_probe_report* report) {
  const jit::NvrtcLocation location = jit::locate_nvrtc(search);
  copy_text(location.path, report->compiler_path);
  report->compiler_major = location.major;
  report->compiler_minor = location.minor;
  try {
    hooks.open_compiler(search);
    report->has_compiler = 1;
  } catch (const Error& error) {
    copy_text(error.what(), report->compiler_message);
  }
}

void probe_devices(const Driver& driver, kiln_probe_report* report) {
  report->device_count = driver.device_count();
  std::string others;
  for (int ordinal = 0; ordinal < report->device_count; ++ordinal) {
    const DeviceInfo info = query_device(driver, ordinal);
    if (!info.is_hopper()) {
      others += fmt::format("{}{} (sm_{}{})", others.empty() ? "" : ", ", info.name, info.major,
                            info.minor);
      continue;
    }
    report->hopper_device = ordinal;
    report->hopper_num_sms = info.num_sms;
    copy_text(info.name, report->device_name);
    return;
  }
  copy_text(
      others.empty()
          ? std::string("no CUDA device is visible: check CUDA_VISIBLE_DEVICES and nvidia-smi")
          : fmt::format(
                "no device here is sm_90 (H100, H200, GH200), which Kiln's kernels need: {}",
                others),
      report->device_message);
}

}  // namespace

void fill_probe_report(const jit::NvrtcSearch& search, const EngineHooks& hooks,
                       kiln_probe_report* report) {
  report->hopper_device = -1;
  probe_compiler(search, hooks, report);
  try {
    const auto driver = Driver::open(hooks.driver_library);
    report->has_driver = 1;
    report->driver_version = driver->version();
    copy_text(driver->path(), report->driver_path);
    probe_devices(*driver, report);
  } catch (const Error& error) {
    if (report->has_driver != 0) {
      copy_text(error.what(), report->device_message);
    } else {
      copy_text(error.what(), report->driver_message);
      copy_text("devices cannot be listed without a driver", report->device_message);
    }
  }
}

}  // namespace kiln::runtime
