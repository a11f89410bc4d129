"""The settings of sandboxes in Kubernetes."""

from pydantic import Field

from skillfleet.ports.settings import AdapterSettings


class KubernetesSandboxSettings(AdapterSettings):
    """Settings of sandboxes in Kubernetes; with the kind `kubernetes`, or with `auto`."""

    sandbox_warm_pool: str = ""
    """Name of the SandboxWarmPool (agent-sandbox) whose sandboxes are claimed; its template decides
    on image, size and RuntimeClass."""
    sandbox_image: str = ""
    """Image of sandboxes that no pool provides; it must contain agent-sandbox's Python runtime."""
    sandbox_images: str = ""
    """Further images with that runtime that a skill may name, separated by commas."""
    sandbox_runtime_class: str = ""
    """RuntimeClass of sandboxes that no pool provides, such as `gvisor` or `kata`."""
    sandbox_namespace: str = ""
    """Kubernetes namespace of sandboxes. Default: that of the worker's pod."""
    sandbox_router_url: str = ""
    """URL of agent-sandbox's router. Default: none, the worker calls the pods itself."""
    sandbox_port: int = Field(default=8888, ge=1, le=65535)
    """Port of the runtime in a sandbox's pod."""
    sandbox_start_seconds: float = Field(default=120, gt=0)
    """Time that a sandbox may take to get ready."""
    sandbox_lifetime_seconds: float = Field(default=86400, ge=60)
    """Age at which the cluster deletes a sandbox, also when no worker is left."""

    @property
    def images(self) -> frozenset[str]:
        """The images of `sandbox_images`."""
        return frozenset(filter(None, map(str.strip, self.sandbox_images.split(","))))

    @property
    def wanted(self) -> bool:
        """True where the settings say which sandboxes to make."""
        return bool(self.sandbox_warm_pool or self.sandbox_image)
