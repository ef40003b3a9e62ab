"""A pod's life through Python's gRPC client, which is built on gRPC's C core.

usage: life_cycle.py SOCKET IMAGE DIRECTORY

Calls every method of a life cycle on the unix socket SOCKET, with a client that is told nothing but the socket's path.
IMAGE must have a shell. DIRECTORY gets the pod's logs. Exits with 0 only if every answer was the expected one.
"""

import pathlib
import sys

import api_pb2 as cri
import api_pb2_grpc
import grpc

# Seconds: of one call; of the whole life there is a limit where this is run.
LIMIT = 60
SCRIPT = "trap 'exit 7' TERM; echo hello; while :; do sleep 3600 & wait; done"


class Client:
    """Both services, each call with a limit and its answer checked by whoever asked."""

    def __init__(self, channel):
        self.runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        self.image = api_pb2_grpc.ImageServiceStub(channel)

    def call(self, method, **fields):
        """Calls a method, by its name, with the request of that name."""
        stub = self.runtime if hasattr(self.runtime, method) else self.image
        request = getattr(cri, f"{method}Request")(**fields)
        return getattr(stub, method)(request, timeout=LIMIT)


def expect(condition, answer):
    """Fails with the answer that was another one than expected."""
    if not condition:
        raise AssertionError(f"unexpected answer: {answer}")


def service(client):
    """Version and Status: what any client asks first."""
    version = client.call("Version", version="v1")
    expect(version.runtime_api_version == "v1", version)
    status = client.call("Status")
    expect({c.type: c.status for c in status.status.conditions}["RuntimeReady"], status)


def image(client, name):
    """PullImage, ImageStatus and ListImages; returns the image's id."""
    pulled = client.call("PullImage", image=cri.ImageSpec(image=name))
    expect(pulled.image_ref, pulled)
    status = client.call("ImageStatus", image=cri.ImageSpec(image=name))
    expect(name in status.image.repo_tags, status)
    listed = client.call("ListImages")
    expect(status.image.id in [image.id for image in listed.images], listed)
    return status.image.id


def pod_config(directory):
    """A pod with its own namespaces."""
    options = cri.NamespaceOption(pid=cri.CONTAINER)
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name="python", namespace="e2e", uid=directory.name, attempt=0),
        hostname="python",
        log_directory=str(directory),
        labels={"client": "grpcio"},
        linux=cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(namespace_options=options)),
    )


def run_pod(client, config):
    """RunPodSandbox, PodSandboxStatus and ListPodSandbox; returns the pod's id."""
    pod = client.call("RunPodSandbox", config=config).pod_sandbox_id
    status = client.call("PodSandboxStatus", pod_sandbox_id=pod)
    expect(status.status.state == cri.SANDBOX_READY, status)
    expect(status.status.metadata == config.metadata, status)
    only = cri.PodSandboxFilter(label_selector={"client": "grpcio"})
    listed = client.call("ListPodSandbox", filter=only)
    expect([item.id for item in listed.items] == [pod], listed)
    return pod


def container_config(image):
    """A container that ends with 7 when it is told to."""
    options = cri.NamespaceOption(pid=cri.CONTAINER)
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="main", attempt=0),
        image=cri.ImageSpec(image=image),
        command=["sh", "-c", SCRIPT],
        log_path="main.log",
        linux=cri.LinuxContainerConfig(
            resources=cri.LinuxContainerResources(cpu_shares=512),
            security_context=cri.LinuxContainerSecurityContext(namespace_options=options),
        ),
    )


def run_container(client, pod, pod_config, image):
    """CreateContainer, StartContainer, ContainerStatus, ListContainers; returns the container's id."""
    config = container_config(image)
    created = client.call("CreateContainer", pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
    container = created.container_id
    client.call("StartContainer", container_id=container)
    status = client.call("ContainerStatus", container_id=container)
    expect(status.status.state == cri.CONTAINER_RUNNING, status)
    listed = client.call("ListContainers", filter=cri.ContainerFilter(pod_sandbox_id=pod))
    expect([item.id for item in listed.containers] == [container], listed)
    return container


def work(client, container):
    """ExecSync and UpdateContainerResources, and an answer larger than a frame of HTTP/2."""
    told = client.call("ExecSync", container_id=container, cmd=["sh", "-c", "echo out; echo err >&2; exit 3"])
    expect((told.stdout, told.stderr, told.exit_code) == (b"out\n", b"err\n", 3), told)
    large = client.call("ExecSync", container_id=container, cmd=["sh", "-c", "head -c 300000 /dev/zero"])
    expect(large.stdout == bytes(300000), len(large.stdout))
    # A request of several frames, which must come through as it is.
    text = "%2F/" * 20000
    counted = client.call("ExecSync", container_id=container, cmd=["sh", "-c", 'printf %s "$1" | wc -c', "sh", text])
    expect(counted.stdout.split() == [b"80000"], counted)
    client.call(
        "UpdateContainerResources", container_id=container, linux=cri.LinuxContainerResources(cpu_shares=256)
    )


def refusal(client):
    """A refusal comes as a status and not as an end of the stream."""
    try:
        client.call("ContainerStatus", container_id="no-such-container")
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.NOT_FOUND, error)
    else:
        raise AssertionError("the status of a container that is not there")


def end(client, pod, container, image):
    """StopContainer, RemoveContainer, StopPodSandbox, RemovePodSandbox, RemoveImage."""
    client.call("StopContainer", container_id=container, timeout=30)
    status = client.call("ContainerStatus", container_id=container)
    expect((status.status.state, status.status.exit_code) == (cri.CONTAINER_EXITED, 7), status)
    client.call("RemoveContainer", container_id=container)
    client.call("StopPodSandbox", pod_sandbox_id=pod)
    client.call("RemovePodSandbox", pod_sandbox_id=pod)
    client.call("RemoveImage", image=cri.ImageSpec(image=image))
    left = client.call("ListImages")
    expect(image not in [image.id for image in left.images], left)


def main(socket, image_name, directory):
    """The whole life."""
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        client = Client(channel)
        service(client)
        image_id = image(client, image_name)
        config = pod_config(directory)
        pod = run_pod(client, config)
        container = run_container(client, pod, config, image_name)
        work(client, container)
        refusal(client)
        expect("hello" in (directory / "main.log").read_text(), directory)
        end(client, pod, container, image_id)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))
