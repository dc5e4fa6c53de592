// Owners of device memory, a stream and events, for programs that have no framework of their own:
// the CLI and the tests. The library itself never allocates device memory.
//
// Each call makes the device's context current for its own duration. Throws Error{kDriverError} or
// kOutOfMemory. The Device must outlive its objects. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/driver.h"

namespace kiln::runtime {

class DeviceBuffer {
 public:
  DeviceBuffer() = default;                               // empty
  DeviceBuffer(const Device& device, std::size_t bytes);  // uninitialised, 256-byte aligned
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  std::size_t size() const { return bytes_; }
  template <class T = void>
  T* data(std::size_t byte_offset = 0) const {
    return reinterpret_cast<T*>(static_cast<std::uintptr_t>(address_) + byte_offset);
  }

  // Complete on return, but not ordered after work on other streams: synchronise those first.
  // [byte_offset, byte_offset + host.size()) must lie inside the buffer.
  void upload(std::span<const std::byte> host, std::size_t byte_offset = 0) const;
  void download(std::span<std::byte> host, std::size_t byte_offset = 0) const;
  // Sets every byte, in order on the stream.
  void fill(std::uint8_t value, CUstream stream) const;
  // Becomes what `other`, of the same size, holds, in order on the stream.
  void copy_from(const DeviceBuffer& other, CUstream stream) const;

  template <class T>
  static DeviceBuffer of(const Device& device, const std::vector<T>& values) {
    DeviceBuffer buffer(device, values.size() * sizeof(T));
    buffer.upload(std::as_bytes(std::span(values)));
    return buffer;
  }
  template <class T>
  std::vector<T> to_host() const {
    std::vector<T> values(bytes_ / sizeof(T));
    download(std::as_writable_bytes(std::span(values)));
    return values;
  }

 private:
  const Device* device_ = nullptr;
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
};

// A non-blocking stream: independent of the legacy default stream.
class Stream {
 public:
  explicit Stream(const Device& device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  CUstream get() const { return stream_; }
  void synchronize() const;  // also reports what asynchronous work failed with

 private:
  const Device* device_;
  CUstream stream_ = nullptr;
};

class Event {
 public:
  explicit Event(const Device& device);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(CUstream stream) const;
  // Inside a stream capture: a node of the graph that records this event at each replay.
  void record_in_capture(CUstream stream) const;
  void synchronize() const;

 private:
  friend double elapsed_us(const Event& begin, const Event& end);
  const Device* device_;
  CUevent event_ = nullptr;
};

// Work that was enqueued once and can be replayed with one call.
class Graph {
 public:
  // Captures what `enqueue` puts on a stream of its own, without running it. What `enqueue` throws
  // passes through, and the capture is over then.
  Graph(const Device& device, const std::function<void(CUstream)>& enqueue);
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&&) = delete;
  ~Graph();

  void launch(CUstream stream) const;

 private:
  const Device* device_;
  CUgraphExec exec_ = nullptr;
};

// GPU time between two recorded events of one device; waits for `end`.
double elapsed_us(const Event& begin, const Event& end);

}  // namespace kiln::runtime
