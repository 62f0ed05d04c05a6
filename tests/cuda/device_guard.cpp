// A CUDA device that does nothing: loaded before torch, it makes torch see eight GPUs, so that fake
// tensors on `cuda` take the paths of real ones on a machine that has none.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr c10::DeviceIndex kDevices = 8;
thread_local c10::DeviceIndex current = 0;

c10::Device device_at(c10::DeviceIndex index) {
  return c10::Device(c10::DeviceType::CUDA, index);
}

c10::DeviceIndex exchange(c10::DeviceIndex index) {
  const auto before = current;
  if (index >= 0) current = index;
  return before;
}

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return device_at(current); }
  c10::Device exchangeDevice(c10::Device device) const override {
    return device_at(exchange(device.index()));
  }
  void setDevice(c10::Device device) const override { exchange(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { exchange(device.index()); }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, stream.device());
  }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { exchange(index); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return exchange(index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchange(index);
  }
};

}  // namespace

namespace at {
using c10::impl::DeviceGuardImplRegistrar;
using c10::impl::NoOpDeviceGuardImpl;
static DeviceGuardImplRegistrar guard(c10::DeviceType::CUDA, new Guard());
// Devices of other makers have no more than a place: fake tensors can be on them.
static DeviceGuardImplRegistrar apple(
    c10::DeviceType::MPS, new NoOpDeviceGuardImpl<c10::DeviceType::MPS>());
static DeviceGuardImplRegistrar intel(
    c10::DeviceType::XPU, new NoOpDeviceGuardImpl<c10::DeviceType::XPU>());
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks);
}  // namespace at
