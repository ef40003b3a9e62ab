//! ImageFsInfo.

use holdfast_cri::v1;
use tonic::Status;

use super::failed;
use crate::runtime::Runtime;

pub async fn image_fs_info(runtime: &Runtime) -> Result<v1::ImageFsInfoResponse, Status> {
    let usage = runtime
        .images()
        .usage()
        .await
        .map_err(|source| failed("ImageFsInfo", "measure the image store".to_owned(), source))?;
    let containers = runtime.containers_disk_usage().await;
    let entry = |mountpoint: std::path::PathBuf, bytes, inodes| v1::FilesystemUsage {
        timestamp: crate::runtime::now_ns(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.display().to_string() }),
        used_bytes: Some(v1::UInt64Value { value: bytes }),
        inodes_used: Some(v1::UInt64Value { value: inodes }),
    };
    let root = &runtime.config().root;
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![entry(root.join("images"), usage.bytes, usage.inodes)],
        container_filesystems: vec![entry(root.join("containers"), containers.bytes, containers.inodes)],
    })
}
