// Included in a loop over cameras: the splat as this camera sees it.
//   p, z          its center in the camera's axes (x right, y down, z forward), and its depth
//   u, v          the center in pixels
//   a, b, c, det  its covariance in the picture, blurred by the picture's own variance, and its determinant
//   fade          the factor of its opacity that makes up for that blur
        const float* V = w2c.data + 12 * size_t(camera);
        const float* lens = intrinsics.data + 8 * size_t(camera);
        const float f[2] = {lens[0], lens[1]}, center[2] = {lens[2], lens[3]};
        float p[3];
        for (int k = 0; k < 3; ++k)
            p[k] = V[4 * k] * mean[0] + V[4 * k + 1] * mean[1] + V[4 * k + 2] * mean[2] + V[4 * k + 3];
        const float z = p[2];
        // J: how the pixel changes with the point. Beyond the rim as at the rim.
        float ratio[2] = {}, J[2][3] = {};
        for (int r = 0; r < 2; ++r) {
            J[r][r] = f[r];
            if (perspective) {
                const float low = lens[4 + r], high = lens[6 + r];
                ratio[r] = p[r] / z;
                ratio[r] = ratio[r] < low ? low : (ratio[r] > high ? high : ratio[r]);
                J[r][r] = f[r] / z;
                J[r][2] = -f[r] * ratio[r] / z;
            }
        }
        const float u = center[0] + J[0][0] * p[0], v = center[1] + J[1][1] * p[1];
        // The three axes of the splat as arrows in the picture.
        float T[2][3] = {}, axes[2][3] = {};
        for (int r = 0; r < 2; ++r) {
            for (int i = 0; i < 3; ++i)
                T[r][i] = J[r][0] * V[i] + J[r][1] * V[4 + i] + J[r][2] * V[8 + i];
            for (int j = 0; j < 3; ++j)
                axes[r][j] = T[r][0] * M[0][j] + T[r][1] * M[1][j] + T[r][2] * M[2][j];
        }
        const float a0 = axes[0][0] * axes[0][0] + axes[0][1] * axes[0][1] + axes[0][2] * axes[0][2];
        const float c0 = axes[1][0] * axes[1][0] + axes[1][1] * axes[1][1] + axes[1][2] * axes[1][2];
        const float b = axes[0][0] * axes[1][0] + axes[0][1] * axes[1][1] + axes[0][2] * axes[1][2];
        const float a = a0 + BLUR, c = c0 + BLUR;
        // a0 c0 - b^2 as the square of a cross product: of thin splats the difference would have no digits left.
        const float cross[3] = {
            axes[0][1] * axes[1][2] - axes[0][2] * axes[1][1], axes[0][2] * axes[1][0] - axes[0][0] * axes[1][2],
            axes[0][0] * axes[1][1] - axes[0][1] * axes[1][0],
        };
        const float det0 = cross[0] * cross[0] + cross[1] * cross[1] + cross[2] * cross[2];
        const float det = det0 + BLUR * (a0 + c0) + BLUR * BLUR;
        const float share = det0 / det;
        const float fade = antialias ? sqrtf(share > LEAST_SHARE ? share : LEAST_SHARE) : 1.0f;
