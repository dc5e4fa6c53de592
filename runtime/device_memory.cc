#include "runtime/device_memory.h"

#include <fmt/format.h>

#include <cassert>
#include <utility>

namespace kiln::runtime {
namespace {

void require_inside(std::size_t offset, std::size_t length, std::size_t size) {
  if (offset <= size && length <= size - offset) return;
  throw Error(Status::kInternal,
              fmt::format("a copy of {} bytes at offset {} leaves a device buffer of {} bytes",
                          length, offset, size));
}

}  // namespace

DeviceBuffer::DeviceBuffer(const Device& device, std::size_t bytes)
    : device_(&device), bytes_(bytes) {
  if (bytes == 0) return;  // cuMemAlloc refuses 0
  const Driver& driver = device.driver();
  const ContextScope scope(driver, device.context());
  driver.check(driver.cuMemAlloc(&address_, bytes), "cuMemAlloc");
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      address_(std::exchange(other.address_, 0)),
      bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (address_ == 0) return;
  try {
    const ContextScope scope(device_->driver(), device_->context());
    device_->driver().cuMemFree(address_);
  } catch (const Error&) {  // the context is gone, and the memory with it
  }
}

void DeviceBuffer::upload(std::span<const std::byte> host, std::size_t byte_offset) const {
  require_inside(byte_offset, host.size(), bytes_);
  if (host.empty()) return;
  const Driver& driver = device_->driver();
  const ContextScope scope(driver, device_->context());
  driver.check(driver.cuMemcpyHtoD(address_ + byte_offset, host.data(), host.size()),
               "cuMemcpyHtoD");
  // From pageable memory the copy may still be on its way to the device, in the default stream,
  // which the non-blocking streams of the callers do not wait for.
  driver.check(driver.cuStreamSynchronize(nullptr), "cuStreamSynchronize");
}

void DeviceBuffer::download(std::span<std::byte> host, std::size_t byte_offset) const {
  require_inside(byte_offset, host.size(), bytes_);
  if (host.empty()) return;
  const Driver& driver = device_->driver();
  const ContextScope scope(driver, device_->context());
  driver.check(driver.cuMemcpyDtoH(host.data(), address_ + byte_offset, host.size()),
               "cuMemcpyDtoH");
}

void DeviceBuffer::fill(std::uint8_t value, CUstream stream) const {
  if (bytes_ == 0) return;
  const Driver& driver = device_->driver();
  const ContextScope scope(driver, device_->context());
  driver.check(driver.cuMemsetD8Async(address_, value, bytes_, stream), "cuMemsetD8Async");
}

void DeviceBuffer::copy_from(const DeviceBuffer& other, CUstream stream) const {
  assert(bytes_ == other.bytes_);
  if (bytes_ == 0) return;
  const Driver& driver = device_->driver();
  const ContextScope scope(driver, device_->context());
  driver.check(driver.cuMemcpyDtoDAsync(address_, other.address_, bytes_, stream),
               "cuMemcpyDtoDAsync");
}

Stream::Stream(const Device& device) : device_(&device) {
  const ContextScope scope(device.driver(), device.context());
  device.driver().check(device.driver().cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING),
                        "cuStreamCreate");
}

Stream::~Stream() {
  try {
    const ContextScope scope(device_->driver(), device_->context());
    device_->driver().cuStreamDestroy(stream_);
  } catch (const Error&) {  // as in ~DeviceBuffer
  }
}

void Stream::synchronize() const {
  const ContextScope scope(device_->driver(), device_->context());
  device_->driver().check(device_->driver().cuStreamSynchronize(stream_), "cuStreamSynchronize");
}

Event::Event(const Device& device) : device_(&device) {
  const ContextScope scope(device.driver(), device.context());
  device.driver().check(device.driver().cuEventCreate(&event_, CU_EVENT_DEFAULT), "cuEventCreate");
}

Event::~Event() {
  try {
    const ContextScope scope(device_->driver(), device_->context());
    device_->driver().cuEventDestroy(event_);
  } catch (const Error&) {  // as in ~DeviceBuffer
  }
}

void Event::record(CUstream stream) const {
  const ContextScope scope(device_->driver(), device_->context());
  device_->driver().check(device_->driver().cuEventRecord(event_, stream), "cuEventRecord");
}

void Event::record_in_capture(CUstream stream) const {
  const ContextScope scope(device_->driver(), device_->context());
  device_->driver().check(
      device_->driver().cuEventRecordWithFlags(event_, stream, CU_EVENT_RECORD_EXTERNAL),
      "cuEventRecordWithFlags");
}

void Event::synchronize() const {
  const ContextScope scope(device_->driver(), device_->context());
  device_->driver().check(device_->driver().cuEventSynchronize(event_), "cuEventSynchronize");
}

Graph::Graph(const Device& device, const std::function<void(CUstream)>& enqueue)
    : device_(&device) {
  const Driver& driver = device.driver();
  const ContextScope scope(driver, device.context());
  const Stream stream(device);
  driver.check(driver.cuStreamBeginCapture(stream.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
               "cuStreamBeginCapture");
  CUgraph graph = nullptr;
  try {
    enqueue(stream.get());
  } catch (...) {
    // Gives no graph when the capture was invalidated.
    if (driver.cuStreamEndCapture(stream.get(), &graph) == CUDA_SUCCESS && graph != nullptr)
      driver.cuGraphDestroy(graph);
    throw;
  }
  driver.check(driver.cuStreamEndCapture(stream.get(), &graph), "cuStreamEndCapture");
  const CUresult made = driver.cuGraphInstantiateWithFlags(&exec_, graph, 0);
  driver.cuGraphDestroy(graph);
  driver.check(made, "cuGraphInstantiateWithFlags");
}

Graph::Graph(Graph&& other) noexcept
    : device_(other.device_), exec_(std::exchange(other.exec_, nullptr)) {}

Graph::~Graph() {
  if (exec_ == nullptr) return;
  try {
    const ContextScope scope(device_->driver(), device_->context());
    device_->driver().cuGraphExecDestroy(exec_);
  } catch (const Error&) {  // as in ~DeviceBuffer
  }
}

void Graph::launch(CUstream stream) const {
  const ContextScope scope(device_->driver(), device_->context());
  device_->driver().check(device_->driver().cuGraphLaunch(exec_, stream), "cuGraphLaunch");
}

double elapsed_us(const Event& begin, const Event& end) {
  const Driver& driver = end.device_->driver();
  const ContextScope scope(driver, end.device_->context());
  driver.check(driver.cuEventSynchronize(end.event_), "cuEventSynchronize");
  float milliseconds = 0;
  driver.check(driver.cuEventElapsedTime(&milliseconds, begin.event_, end.event_),
               "cuEventElapsedTime");
  return static_cast<double>(milliseconds) * 1e3;
}

}  // namespace kiln::runtime
