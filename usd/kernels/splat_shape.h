// Included in a function's body: the shape of splat n, whatever camera sees it.
//   w, x, y, t   its unit quaternion (real part first)
//   R, M         its rotation matrix, and that times the scales, so that M M^T is its covariance
    // What is fainter than a step of an eight-bit picture is not drawn.
    constexpr float LEAST_ALPHA = 1.0f / 255.0f;
    // A picture blurs by this variance, in pixels^2: that of a pixel's box, nearly; without fading nothing may fall
    // between pixels.
    const float BLUR = antialias ? 0.1f : 0.3f;
    constexpr float LEAST_SHARE = 1e-6f;
    const float* quaternion = rotations.data + 4 * size_t(n);
    const float* mean = means.data + 3 * size_t(n);
    const float length = sqrtf(quaternion[0] * quaternion[0] + quaternion[1] * quaternion[1]
        + quaternion[2] * quaternion[2] + quaternion[3] * quaternion[3]);
    const float inverse_length = 1.0f / (length > 1e-12f ? length : 1e-12f);
    const float w = quaternion[0] * inverse_length, x = quaternion[1] * inverse_length;
    const float y = quaternion[2] * inverse_length, t = quaternion[3] * inverse_length;
    const float R[3][3] = {
        {1.0f - 2.0f * (y * y + t * t), 2.0f * (x * y - w * t), 2.0f * (x * t + w * y)},
        {2.0f * (x * y + w * t), 1.0f - 2.0f * (x * x + t * t), 2.0f * (y * t - w * x)},
        {2.0f * (x * t - w * y), 2.0f * (y * t + w * x), 1.0f - 2.0f * (x * x + y * y)},
    };
    float M[3][3];
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            M[i][j] = R[i][j] * scales.data[3 * size_t(n) + j];
