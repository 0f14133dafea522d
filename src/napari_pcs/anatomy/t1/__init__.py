"""From a raw T1 scan to grey and white matter of either hemisphere; needs the extra `t1`."""
